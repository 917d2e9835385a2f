"""A plan as one readable text, for tests that show what a configuration was compiled to."""

from datetime import UTC, datetime, timedelta

from daemon.model import Query
from daemon.plans import ResourcePlan
from daemon.plans.resource import DateField

SINCE = datetime(2018, 8, 20, 15, 29, 6, 123456, tzinfo=UTC)
NOW = SINCE + timedelta(minutes=15)


def render(plan: ResourcePlan) -> list[str]:
    """What is asked with the last poll at `SINCE` and this one at `NOW`, then how the answer is read."""
    lines = [f"{plan.resource} <- {render_question(plan)}"]
    lines.append(f"id {plan.id_path.text}" if plan.id_path else "id by convention")
    if plan.updated_field:
        lines.append(f"updated {_render_date(plan.updated_field)}")
    if plan.created_field:
        lines.append(f"created {_render_date(plan.created_field)}")
    rules = [f"tolerance {plan.created_check_tolerance:g}"]
    rules += ["by updated"] if plan.filter_by_updated_date else []
    rules += ["by current"] if plan.filter_by_current_date else []
    rules += [f"delay {plan.poll_delay:g}"] if plan.poll_delay else []
    rules += [f"pages of {plan.page_size}"] if plan.page_size else []
    lines.append(", ".join(rules))
    lines += [f"note: {note}" for note in plan.notes]
    lines += [f"extra: {key}={value}" for key, value in plan.extra.items()]
    return lines


def render_question(plan: ResourcePlan) -> str:
    """The question in one line, or what is missing before it can be asked."""
    if plan.unfilled:
        return f"unfilled: {', '.join(plan.unfilled)}"
    return render_query(plan.query(SINCE, NOW))


def render_query(query: Query) -> str:
    terms = "".join(
        f" {term.joined if place else 'WHERE'} [{term.attribute}] {term.operator} [{term.value}]"
        for place, term in enumerate(query.conditions)
    )
    parameters = "".join(f" &{name}=[{value}]" for name, value in query.parameters)
    return query.resource + terms + parameters


def _render_date(date: DateField) -> str:
    return f"{date.path.text} as {date.pattern.pattern} in {date.zone}"
