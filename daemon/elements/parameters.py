"""Which configuration keys an instance of a described element has."""

from collections.abc import Iterator

from daemon.elements.authentication import Authentication
from daemon.elements.base import Parameter
from daemon.elements.definition import Definition, Place
from daemon.elements.hook_definition import Webhook
from daemon.elements.paths import places


def describe(definition: Definition, auth: Authentication) -> tuple[Parameter, ...]:
    """The definition's own parameters, then those that it uses without describing them.

    Authentication, addresses, headers and the webhook use some.
    """
    found = {one.key: Parameter(**one.model_dump()) for one in definition.parameters}
    for one in auth.parameters:
        found.setdefault(one.key, one)
    if definition.connection is not None:
        for one in _of_place(definition.connection):
            found.setdefault(one.key, one)
    if definition.webhook is not None:
        for one in _of_webhook(definition.webhook):
            found.setdefault(one.key, one)
    return tuple(found.values())


def _of_place(place: Place) -> Iterator[Parameter]:
    if place.override:
        yield Parameter("base.url", "Base URL", default=place.base)
    for key in places(place.base):
        yield Parameter(key, key, required=not place.override)
    for template in place.headers.values():
        for key in places(template):
            yield _undescribed(key)


def _of_webhook(hook: Webhook) -> Iterator[Parameter]:
    if hook.signature is not None and hook.signature.secret_file is None:
        name = "Signing secret of the webhooks"
        yield Parameter(hook.signature.key, name, type="PASSWORD", secret=True)
    for challenge in hook.challenge:
        for key in (challenge.key, challenge.verify_key):
            if key is not None:
                yield _undescribed(key)
    if hook.routing_key is not None:
        yield Parameter(hook.routing_key, hook.routing_key)


def _undescribed(key: str) -> Parameter:
    """A setting that may be a secret, and so is kept as one."""
    return Parameter(key, key, type="PASSWORD", secret=True)
