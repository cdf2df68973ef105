"""The error that sets a mistake of the user apart from one of the program."""


class UserError(ValueError):
    """Something that the user gave and can mend; the message is one clear line.

    Commands print the message alone and end with status 2. A `ValueError` of any other
    class is a mistake of the program and keeps its traceback.
    """
