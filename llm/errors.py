"""The one exception for mistakes in what the reader gave: a file, an option, a folder."""


class InputError(ValueError):
    """Bad input. The message says what is wrong, where, and how to mend it, in one line.

    The command line prints it after `error:` and ends with status 2; in a notebook it is the
    last line of the traceback. Everything else that is raised is a bug of this project.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))
