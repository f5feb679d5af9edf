"""The sizes that make a GPT-2: one dataclass, and a preset for each published model.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2.
"""

from dataclasses import asdict, dataclass, fields

from llm.utils.errors import InputError

# A damaged config.json is refused before time and memory are spent on what it asks for.
LARGEST = {"n_layers": 1000}


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2. `GPTConfig()` is the 124M model.

    Raises InputError when a size is not a positive whole number or the heads do not divide the
    width.
    """

    vocab_size: int = 50257  # tokens the model knows
    context_length: int = 1024  # tokens it can look at, one learned position each
    emb_dim: int = 768  # width: numbers a token is represented by
    n_heads: int = 12  # attention heads, each emb_dim / n_heads wide
    n_layers: int = 12  # transformer blocks
    drop_rate: float = 0.0  # dropout while training

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "drop_rate":
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise InputError(f"config: drop_rate must be a number, not {value!r}")
                if not 0 <= value < 1:
                    raise InputError(f"config: drop_rate must be in [0, 1), not {value}")
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(
                    f"config: {field.name} must be a positive whole number, not {value!r}"
                )
            elif value > LARGEST.get(field.name, 10_000_000):
                raise InputError(f"config: {field.name} is {value}: no model is so large")
        if self.emb_dim % self.n_heads:
            raise InputError(
                f"config: emb_dim {self.emb_dim} cannot be shared out over {self.n_heads} heads"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.emb_dim // self.n_heads

    def to_dict(self) -> dict:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict, where: str = "config") -> "GPTConfig":
        """From plain JSON. Raises InputError on an unknown or missing name."""
        names = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or set(content) != names:
            given = sorted(content) if isinstance(content, dict) else content
            raise InputError(f"{where}: expected exactly {sorted(names)}, found {given}")
        return cls(**content)


PRESETS: dict[str, GPTConfig] = {
    "mini": GPTConfig(8192, 512, 256, 4, 10),  # made and shipped by this project
    "gpt2": GPTConfig(),  # 124M parameters
    "gpt2-medium": GPTConfig(emb_dim=1024, n_heads=16, n_layers=24),  # 355M
    "gpt2-large": GPTConfig(emb_dim=1280, n_heads=20, n_layers=36),  # 774M
    "gpt2-xl": GPTConfig(emb_dim=1600, n_heads=25, n_layers=48),  # 1558M
}
