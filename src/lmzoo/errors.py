"""The one error that a user can cause."""


class LmzooError(Exception):
    """Something the user gave cannot be used: one line that names what, where and what to do.

    Every command turns it into that line on standard error and exit status 1, without a traceback.
    Inside a sweep it ends its own job only.
    """


class MismatchError(LmzooError):
    """Two choices do not go together, each of which may be right beside another.

    A sweep skips such a combination and goes on with the others.
    """


def one_of(what: str, given: object, choices: object) -> None:
    """Refuse ``given`` unless it is among ``choices``.

    Raises:
        LmzooError: naming ``what``, the value given and the choices.
    """
    names = list(choices)  # type: ignore[call-overload]
    if given not in names:
        raise LmzooError(f"{what}={given} is not known; choose one of: {', '.join(map(str, names))}")
