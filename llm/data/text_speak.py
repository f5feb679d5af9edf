"""Respell conversations the way people typed on a telephone with twelve keys.

The corpus that `mini` learns from is spelled as in books: "you are", never "u r". Text messages
are not. So pretraining can be given, beside each conversation, a copy of it in text speak: a
little of "gr8 c u 2nite" then stands in surroundings from which its meaning can be learned. The
rules below were written down by hand, from common knowledge; no text message was looked at.
"""

import random
import re

# Word -> spellings to draw from. Where the word itself is among them, it often stays.
SPELLINGS = {
    "about": ["abt", "about"], "and": ["n", "&", "and"], "are": ["r"], "be": ["b", "be"],
    "because": ["cos", "coz"], "before": ["b4"], "can't": ["cant"], "could": ["cud", "could"],
    "don't": ["dont", "dun"], "for": ["4", "for", "for"], "from": ["frm", "from"],
    "going": ["goin", "going"], "good": ["gud", "good"], "great": ["gr8"],
    "have": ["hav", "hv", "have"], "hello": ["hey", "hello"], "hour": ["hr"], "hours": ["hrs"],
    "how": ["hw", "how"], "i'm": ["im"], "just": ["jus", "just"], "later": ["l8r", "later"],
    "love": ["luv"], "message": ["msg"], "messages": ["msgs"], "minute": ["min"],
    "minutes": ["mins"], "morning": ["mornin"], "much": ["much", "mch"], "night": ["nite"],
    "no": ["nope", "no", "no"], "number": ["no", "num"], "okay": ["ok", "k"], "people": ["ppl"],
    "phone": ["fone", "phone"], "please": ["pls", "plz"], "really": ["rly", "really"],
    "see": ["c", "see"], "should": ["shud", "should"], "something": ["smth"], "text": ["txt"],
    "thanks": ["thx", "thanx"], "that": ["dat", "tht", "that", "that"],
    "the": ["d", "da", "the", "the", "the", "the"], "there": ["der", "there", "there"],
    "to": ["2", "to", "to"], "today": ["2day", "today"], "tomorrow": ["tmr", "2moro", "tomoro"],
    "tonight": ["2nite", "tonite"], "week": ["wk"], "what": ["wat", "wot", "what"],
    "when": ["wen", "when"], "who": ["hu", "who"], "why": ["y", "why"],
    "with": ["wid", "w", "with"], "would": ["wud", "would"], "yeah": ["yea", "ya"],
    "yes": ["yup", "ya", "yes"], "you": ["u"], "you're": ["ur", "u r"], "your": ["ur"],
}  # fmt: skip
LONGEST = 40_000  # characters: longer documents are books, which nobody types on a telephone

_WORD = re.compile(r"[A-Za-z']+")


def text_speak(text: str, rng: random.Random) -> str:
    """A copy of a conversation in text speak.

    How strong the writer's habit is differs from text to text: 30, 60 or 90 % of the words that
    could be shortened are, and four writers in five use no capital letters.
    """
    habit, lower_case = rng.choice([0.3, 0.6, 0.9]), rng.random() < 0.8

    def respell(match: re.Match) -> str:
        word = match.group()
        if word.lower() in SPELLINGS and rng.random() < habit:
            return rng.choice(SPELLINGS[word.lower()])
        return word.replace("'", "") if rng.random() < 0.5 else word

    lines = []
    for line in text.split("\n"):
        line = _WORD.sub(respell, line)
        if lower_case:
            line = line.lower()
        if rng.random() < 0.5:
            line = line.rstrip(".")
        if rng.random() < 0.15:
            line = line.replace(". ", "... ")
        lines.append(line)
    return "\n".join(lines)
