"""How a message reaches a model: read as in the training of its task, then token ids."""

from collections.abc import Sequence

from llm.data.batching import Encoded, encode_messages
from llm.data.tasks import read_as
from llm.data.tokenizer import Tokenizer
from llm.data.tsv import Message


def read_messages(
    messages: Sequence[str | Message],
    tasks: Sequence[str | None],
    tokenizer: Tokenizer,
    context_length: int,
) -> Encoded:
    """Messages as token ids; the ones longer than the context lose their end, and are counted.

    Args:
        messages: as somebody wrote them, or labelled ones as `llm.data.tsv` has read them.
        tasks: of the model that is to answer, one a message (`llm.data.tasks.read_as`).

    Returns:
        the ids, and the labels (-1 for messages without one).
    """
    texts = [read_as(task, message) for task, message in zip(tasks, messages, strict=True)]
    labels = [message.label if isinstance(message, Message) else -1 for message in messages]
    return encode_messages(tokenizer, texts, labels, context_length)
