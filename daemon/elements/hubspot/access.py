"""What an instance may ask HubSpot with: a private app's token, a service key, or what a person granted to an app."""

import re

from daemon.elements.authentication import CLIENT_ID, CLIENT_SECRET, KIND, REDIRECT, TOKEN
from daemon.elements.base import Settings
from daemon.errors import Invalid, Refused

ACCESS = "hubspot.access.token"
API_KEY = "hubspot.authorization.apikey"
SECRET = "signature.secret"  # noqa: S105 — the name of a setting
APP = {CLIENT_ID: "client ID", CLIENT_SECRET: "client secret", REDIRECT: "callback URL"}
"""What an app with OAuth is registered with."""

_KINDS = {"oauth2": "oauth2", "oauth": "oauth2", "apikey": "token", "token": "token"}
_PRIVATE = re.compile(r"pat-[!-~]{8,500}")


def _chosen(settings: Settings) -> str:
    """How the instance says that it authenticates: `oauth2`, `token`, or empty; raises `Invalid`."""
    said = settings.get(KIND, "").strip().lower()
    # The documents' example has "oauth2 OR apiKey" there: the choice is still open.
    if not said or " or " in said:
        return ""
    if said not in _KINDS:
        raise Invalid({f"configuration.{KIND}": "should be oauth2, token or apiKey"})
    return _KINDS[said]


def token(settings: Settings) -> str:
    """The private app's token or service key that requests carry; empty where a person's grant is what counts."""
    said = settings.get(KIND, "").strip().lower()
    if _KINDS.get(said) == "oauth2":
        return ""
    key = settings.get(API_KEY, "").strip()
    return settings.get(ACCESS, "").strip() or (key if _PRIVATE.fullmatch(key) else "")


def problems_of(settings: Settings, open_keys: set[str]) -> dict[str, str]:
    """What is wrong with the credentials; *open_keys* are those that are still to be filled in."""
    try:
        chosen = _chosen(settings)
    except Invalid as error:
        return error.problems
    found: dict[str, str] = {}
    vendor = settings.get("event.vendor.type", "").strip().lower()
    secret = settings.get(SECRET) or settings.get(CLIENT_SECRET)
    app = bool(settings.get(CLIENT_ID) or settings.get(CLIENT_SECRET))
    if token(settings):
        pass
    elif settings.get(API_KEY) and chosen != "oauth2" and (chosen or not app):
        found[API_KEY] = (
            "is an API key, which HubSpot has not accepted since 30 November 2022: make a private app or a service "
            f"key in the account, and give its token (pat-…) as {ACCESS}"
        )
    elif vendor.startswith("webhook") and secret:
        pass  # what is only told needs nothing else
    elif chosen == "oauth2" or (not chosen and app):
        found |= {
            key: f"is missing: it is the {name} of the app"
            for key, name in APP.items()
            if not settings.get(key) and key not in open_keys
        }
    elif not open_keys & {ACCESS, API_KEY, *APP}:
        found[ACCESS] = (
            "is missing: give a private app's token or a service key here, or oauth.api.key, oauth.api.secret and "
            "oauth.callback.url of an app, with the code in providerData"
        )
    told = vendor in ("webhook", "webhooks", "both")
    if told and not secret and not open_keys & {SECRET, CLIENT_SECRET}:
        found.setdefault(
            SECRET, "is missing: it is the app's client secret, with which HubSpot signs webhooks"
        )
    return {f"configuration.{key}": sentence for key, sentence in found.items()}


def check_ready(settings: Settings) -> None:
    """Raise `Refused` where there is nothing to sign a request with."""
    if not (token(settings) or settings.get(TOKEN)):
        raise Refused(
            "the instance has no access to HubSpot yet: PATCH it with providerData.code after a person has granted "
            f"access, or with a private app's token or service key as {ACCESS}"
        )
