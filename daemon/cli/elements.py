"""`tidings elements`: which providers there are, and whether a definition is right."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from daemon import elements as registry
from daemon.cli.app import App, Verbs, json_option, pass_app
from daemon.cli.outcome import Code, Failed
from daemon.elements import loading
from daemon.elements.base import Element, Settings
from daemon.errors import ConfigError, ElementError, Invalid
from daemon.model import Condition, Query, Request, Response
from daemon.plans import ResourcePlan, compile_plans


@click.group(cls=Verbs)
def elements() -> None:
    """The providers that tidings knows."""


@elements.command("list")
@json_option
@pass_app
def list_(app: App, *, as_json: bool) -> None:
    """List the elements: the built-in ones and your own."""
    found = registry.load(app.config().elements.directories).all()
    if as_json:
        app.display.json([_described(one) for one in found])
        return
    app.display.table(
        ("key", "id", "name", "hub", "events by", "resources"),
        [(e.key, e.id, e.name, e.hub, _ways(e), e.resources) for e in found],
    )


@elements.command(cls=click.Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@json_option
@pass_app
def check(app: App, *, files: tuple[Path, ...], as_json: bool) -> None:
    """Check definitions of elements: every problem with its place, and what each resource would ask.

    \b
    Example:
      tidings elements check my-crm.toml
    """
    reports = [_report(file) for file in _definitions(files)]
    if as_json:
        app.display.json(reports)
    else:
        for report in reports:
            _show(app, report)
    wrong = [report for report in reports if not report["ok"]]
    if wrong or not reports:
        raise Failed(
            f"{len(wrong)} of {len(reports)} definitions are wrong"
            if reports
            else "there is no .toml file there",
            remedy="docs/elements.md explains every key",
            code=Code.CONFIGURATION,
        )


def _definitions(places: tuple[Path, ...]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(place.glob("*.toml"))
        else:
            yield place


def _report(file: Path) -> dict[str, Any]:
    try:
        element = loading.load(file)
        plans = compile_plans({}, element.poller_defaults)
    except ConfigError as error:
        return {"file": str(file), "ok": False, "problems": str(error).splitlines()}
    except Invalid as error:
        problems = [f"{file}: {field}: {problem}" for field, problem in error.problems.items()]
        return {"file": str(file), "ok": False, "problems": problems}
    asked = [_asked(element, plan) for plan in plans]
    problems = [
        f"{file}: resources.{one['resource']}: {one['problem']}" for one in asked if one["problem"]
    ]
    return {
        "file": str(file),
        "ok": not problems,
        "problems": problems,
        **_described(element),
        "asks": [{key: value for key, value in one.items() if value} for one in asked],
    }


def _described(element: Element) -> dict[str, Any]:
    return {
        "key": element.key,
        "id": element.id,
        "name": element.name,
        "hub": element.hub,
        "polls": element.polls,
        "webhooks": element.hooks,
        "oauth": element.oauth,
        "resources": list(element.resources),
    }


def _ways(element: Element) -> str:
    return (
        ", ".join(
            name for name, has in (("polling", element.polls), ("webhooks", element.hooks)) if has
        )
        or "-"
    )


def _asked(element: Element, plan: ResourcePlan) -> dict[str, Any]:
    """What a poll of *plan* would ask first, had the last one been a quarter of an hour ago."""
    now = datetime.now(UTC).replace(microsecond=0)
    found: dict[str, Any] = {
        "resource": plan.resource,
        "request": "",
        "ignored": [],
        "problem": "",
        "notes": list(plan.notes),
    }
    if plan.unfilled:
        found["notes"].append(plan.what_is_missing())
        return found
    try:
        query = plan.query(now - timedelta(minutes=15), now)
        element.check_query(query)
        settings = {one.key: one.default or f"<{one.key}>" for one in element.parameters}
        request = first_request(element, settings, query)
        found["request"] = f"{request.method} {request.url}"
        found["ignored"] = [
            f"{term.attribute}{term.operator}{term.value}"
            for term in query.conditions
            if first_request(element, settings, _without(query, term)).url == request.url
        ]
    except (Invalid, ElementError) as error:
        found["problem"] = str(error)
    return found


def _without(query: Query, term: Condition) -> Query:
    kept = tuple(one for one in query.conditions if one is not term)
    return Query(query.resource, kept, query.parameters, query.page_size, query.since, query.where)


class _Asked(Exception):
    """Carries the request out of the element that would have sent it."""

    def __init__(self, request: Request) -> None:
        self.request = request


class _Catcher:
    """The `Http` of an element that is only asked what it would ask."""

    async def send(self, request: Request) -> Response:
        raise _Asked(request)


def first_request(element: Element, settings: Settings, query: Query) -> Request:
    """The first request that answers *query*, without credentials; raises what `Element.read` raises."""
    try:
        # It never waits: the first thing that it sends comes out as `_Asked`.
        element.read(_Catcher(), settings, query).__anext__().send(None)
    except _Asked as asked:
        return asked.request
    raise ElementError(f"{query.resource} is read without a request")


def _show(app: App, report: dict[str, Any]) -> None:
    if not report["ok"]:
        for problem in report["problems"]:
            app.display.line(f"✗ {problem}", style="red")
    if "key" not in report:
        return
    mark = "✓" if report["ok"] else "✗"
    app.display.line(f"{mark} {report['file']}: {report['key']} ({report['id']}), {report['name']}")
    for one in report["asks"]:
        app.display.line(f"  {one['resource']}: {one.get('request', 'asks nothing yet')}")
        for term in one.get("ignored", ()):
            app.display.line(
                f"    left out: {term} (the provider cannot filter by it; tidings does)"
            )
        for note in one.get("notes", ()):
            app.display.line(f"    note: {note}")
