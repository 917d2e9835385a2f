"""Errors, named by what the caller can do.

Each docstring says what to do.  The kind of a failure is decided where the knowledge is (an element, the
outbound client, the store) and obeyed by whoever drives the work (a poller, the dispatcher, the API).
"""


class TidingsError(Exception):
    """Base of all errors that tidings raises on purpose."""


class ConfigError(TidingsError):
    """The operator must edit the configuration; the message names the key and the remedy."""


class Invalid(TidingsError):
    """The caller sent something that can never work; change it and call again.

    *problems* maps the name of a field (dotted, as the caller wrote it) to a sentence that says what is
    wrong with it and what it should be.
    """

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {problem}" for field, problem in problems.items()))
        self.problems = problems


class NotFound(TidingsError):
    """There is no such thing, or it is not the caller's; check the id."""


class ElementError(TidingsError):
    """Something went wrong with a provider."""


class Transient(ElementError):
    """The provider cannot now: try later, not before *retry_after* seconds when it is given.

    *status* is the provider's HTTP status where it gave one; *body* is the beginning of its answer, for the element to
    find a code in; it is not for showing.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        status: int | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status
        self.body = body


class Refused(ElementError):
    """The provider will not, and trying again does not help: a person must look.

    *status* is the provider's HTTP status where it gave one; *body* is the beginning of its answer, for the element to
    find a code in; it is not for showing.
    """

    def __init__(self, message: str, *, status: int | None = None, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class Unauthorized(Refused):
    """The provider does not accept the credentials: refresh them, or ask the account's owner."""


class TokenLost(ElementError):
    """The provider no longer knows how far its change feed was read: read from the beginning and compare.

    With *elsewhere* the token was of another feed, for what is to be watched has changed: set a baseline again.
    """

    def __init__(self, message: str, *, elsewhere: bool = False) -> None:
        super().__init__(message)
        self.elsewhere = elsewhere


class DeletionsLost(ElementError):
    """The provider no longer tells all that was deleted since then: compare what is known with an inventory."""


class BadSignature(ElementError):
    """A webhook is not from whom it says: refuse it."""


class Outage(TidingsError):
    """The database is away: nothing was stored; try again soon."""


class NotOwner(TidingsError):
    """Another tidings process works on this database: stop one of them."""


class NotSent(TidingsError):
    """Not a byte of the request left this machine: it may be sent again without any mark."""


class AddressRefused(NotSent):
    """The callback is at an address where nothing may be sent: move it, or allow its network."""


class CertificateRefused(NotSent):
    """The callback's certificate is not good for its name: whoever runs the receiver must renew or correct it."""


class Unanswered(TidingsError):
    """The request left, wholly or partly, and no complete answer came: the receiver may have acted on it."""
