"""Poller configurations compiled: every form and its plan, and what is refused in which words."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans.forms import FORMS
from plans.rendering import NOW, SINCE, render, render_question

from daemon.errors import Invalid
from daemon.plans import compile_plans, refresh_interval

CONFIGURATION = "event.poller.configuration"
DEFAULTS = {
    "Contact": {"url": "/hubs/crm/Contact?where=a>'${epoch}'", "idField": "Id"},
    "Account": {"url": "/hubs/crm/Account"},
    "/changes": {"url": "/hubs/crm/changes"},
}


def names(configuration, defaults=DEFAULTS):
    return [plan.resource for plan in compile_plans(configuration, defaults)]


def problems(configuration, defaults=DEFAULTS):
    with pytest.raises(Invalid) as caught:
        compile_plans(configuration, defaults)
    return caught.value.problems


def problem_with_url(url):
    return problems({CONFIGURATION: {"x": {"url": url}}})[f"{CONFIGURATION}.x.url"]


@pytest.mark.parametrize(
    ("title", "resource", "entry", "further", "plan"), FORMS, ids=[form[0] for form in FORMS]
)
def test_every_form_compiles_to_its_plan(title, resource, entry, further, plan):
    """A configuration form is compiled to exactly the request and the reading that the table shows."""
    (compiled,) = compile_plans({CONFIGURATION: {resource: entry}, **further})

    assert plan == render(compiled)


@pytest.mark.parametrize("levels", [1, 2])
def test_the_escaped_text_of_a_configuration_is_the_configuration(levels):
    """The object, its JSON text and the text of that text give equal plans."""
    own = {resource: entry for _, resource, entry, further, _ in FORMS[:10] if not further}
    text = own
    for _ in range(levels):
        text = json.dumps(text)

    assert [render(plan) for plan in compile_plans({CONFIGURATION: own})] == [
        render(plan) for plan in compile_plans({CONFIGURATION: text})
    ]


# The poller bodies of the mission documents, as an application posts them.
SAGE_ONE = {
    "oauth.api.key": "key",
    "signature.secret": "secret",
    "country": "US",
    "event.notification.enabled": True,
    "event.notification.callback.url": "https://app.example.com",
    "event.poller.refresh_interval": "15",
    "event.poller.configuration": {
        "customers": {
            "url": "/hubs/finance/customers?where=lastModifiedDate>='${date:yyyy-MM-dd'T'HH:mm:ss'Z'}' and attributes='created_at,updated_at",
            "idField": "id",
            "datesConfiguration": {
                "updatedDateField": "updated_at",
                "updatedDateFormat": "yyyy-MM-dd'T'HH:mm:ss'Z'",
                "updatedDateTimezone": "GMT",
                "createdDateField": "created_at",
                "createdDateFormat": "yyyy-MM-dd'T'HH:mm:ss'Z'",
                "createdDateTimezone": "GMT",
            },
        }
    },
}
HUBSPOT = {
    "authentication.type": "oauth2",
    "create.bulk.properties": "false",
    "filter.response.nulls": True,
    "event.notification.enabled": True,
    "event.vendor.type": "polling",
    "event.notification.callback.url": "https://app.example.com",
    "event.notification.signature.key": "12345",
    "event.poller.refresh_interval": "5",
    "event.poller.configuration": {
        "accounts": {
            "url": "/hubs/crm/contacts?where=lastmodifieddate='${date}'",
            "idField": "vid",
            "filterByUpdatedDate": True,
            "datesConfiguration": {
                "updatedDateField": "properties.lastmodifieddate",
                "updatedDateFormat": "milliseconds",
                "createdDateField": "properties.createdate",
                "createdDateFormat": "milliseconds",
                "createdCheckTolerance": 10,
            },
        }
    },
}


def test_the_polling_body_of_sage_one():
    """The documented body is accepted as printed, its missing quote mended and told."""
    (plan,) = compile_plans(SAGE_ONE)

    assert refresh_interval(SAGE_ONE) == 900
    assert render(plan) == [
        "customers <- customers WHERE [lastModifiedDate] >= [2018-08-20T15:29:06Z] AND [attributes] = [created_at,updated_at]",
        "id id",
        "updated updated_at as yyyy-MM-dd'T'HH:mm:ss'Z' in GMT",
        "created created_at as yyyy-MM-dd'T'HH:mm:ss'Z' in GMT",
        "tolerance 10, by updated",
        "note: the quote missing after 'created_at,updated_at' was added",
    ]
    assert plan.query(SINCE, NOW).where == (
        "lastModifiedDate>='2018-08-20T15:29:06Z' and attributes='created_at,updated_at'"
    )


def test_the_polling_body_of_hubspot():
    """The documented body is accepted as printed; `objectType` is the key, the path is from the url."""
    (plan,) = compile_plans(HUBSPOT)

    assert refresh_interval(HUBSPOT) == 300
    assert render(plan) == [
        "accounts <- contacts WHERE [lastmodifieddate] = [1534778946123]",
        "id vid",
        "updated properties.lastmodifieddate as milliseconds in UTC",
        "created properties.createdate as milliseconds in UTC",
        "tolerance 10, by updated",
    ]


def test_placeholders_of_the_documents_are_not_given():
    """`<minutes>` and `<COMMA_SEPARATED_LIST>`, left in from the documents, stand for nothing."""
    assert refresh_interval({**SAGE_ONE, "event.poller.refresh_interval": "<minutes>"}) == 900
    assert compile_plans({**SAGE_ONE, "event.objects": "<COMMA_SEPARATED_LIST>"}) == compile_plans(
        SAGE_ONE
    )


@pytest.mark.parametrize(
    ("minutes", "seconds"),
    [(None, 900), ("", 900), (5, 300), ("15", 900), (" 1.5 ", 90), (0.05, 3), (999999999, 59999999940), ("999999999", 59999999940)],
)  # fmt: skip
def test_refresh_interval_is_minutes(minutes, seconds):
    """Numbers and texts count alike, fractions are allowed, and 999999999 switches polling off in practice."""
    assert seconds == pytest.approx(refresh_interval({"event.poller.refresh_interval": minutes}))


@pytest.mark.parametrize(
    "minutes", [0, -1, "0", True, "nan", "inf", "1_0", "fast", 1e12, 10**400, [], {}]
)
def test_what_is_no_interval_is_refused(minutes):
    """Anything but a number of minutes within bounds is refused under its own key."""
    with pytest.raises(Invalid) as caught:
        refresh_interval({"event.poller.refresh_interval": minutes})

    assert list(caught.value.problems) == ["event.poller.refresh_interval"]


@pytest.mark.parametrize(
    ("further", "expected"),
    [
        ({}, ["Contact", "Account", "/changes"]),
        ({CONFIGURATION: {}}, ["Contact", "Account", "/changes"]),
        ({CONFIGURATION: ""}, ["Contact", "Account", "/changes"]),
        ({CONFIGURATION: {"own": {"url": "/own"}}}, ["own"]),
        ({"event.objects": "account, Contact"}, ["Account", "Contact"]),
        ({"event.objects": ["Contact"]}, ["Contact"]),
        ({"event.objects": ""}, ["Contact", "Account", "/changes"]),
        ({CONFIGURATION: {"own": {"url": "/own"}}, "event.objects": "OWN,Contact"}, ["own", "Contact"]),
        ({"event.poller.urls": "contact|ACCOUNT"}, ["Contact", "Account"]),
        ({"event.poller.urls": "contact\r\naccount\n"}, ["Contact", "Account"]),
        ({"event.poller.urls": "Contact|/changes"}, ["Contact", "/changes"]),
        ({"event.poller.urls": "Contact|Account", "event.objects": "account"}, ["Account"]),
        ({"event.poller.urls": "leads|/hubs/crm/leads"}, ["leads"]),
        ({"event.poller.urls": "leads|/hubs/crm/leads", CONFIGURATION: {"own": {"url": "/own"}}}, ["leads", "own"]),
        ({"event.vendor.type": "webhooks", "event.objects": "Lead,Contact"}, ["Contact"]),
        ({"event.vendor.type": "webhook", "event.objects": "Lead"}, ["Contact", "Account", "/changes"]),
    ],
)  # fmt: skip
def test_which_resources_are_polled(further, expected):
    """The configuration comes before the defaults; urls and objects select among both, in any case."""
    assert expected == names(further)


def test_an_instance_without_anything_to_poll_has_no_plans():
    """A webhook-only element has no defaults; objects then name what its webhooks are about."""
    assert () == compile_plans({"event.objects": "Lead"})
    assert () == compile_plans({})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("event.objects", "Contact,Lead", "names 'Lead', which cannot be polled here; what can be polled: /changes, Account, Contact"),
        ("event.objects", 5, "should be a text that names resources"),
        ("event.poller.urls", "Lead|Contact", "names 'Lead'"),
        ("event.poller.urls", "a|/x|1|2|3|4|5|6|7|8", "line 1 has 10 parts"),
        ("event.poller.urls", "Contact\n|/x", "line 2 should begin with the name of a resource"),
        (CONFIGURATION, '{"a": {"url": "/x"},}', "trailing comma is not allowed at line 1, column 20"),
        (CONFIGURATION, '{\n "a": }', "at line 2, column 7"),
        (CONFIGURATION, "[" * 100_000, "is no JSON"),
        (CONFIGURATION, "[1]", "should be an object with one entry per resource"),
        (CONFIGURATION, 3, "should be an object with one entry per resource"),
    ],
)  # fmt: skip
def test_what_names_no_resources_is_refused(key, value, said):
    """A selection or a text that cannot be read is refused under its key, with the place or the choices."""
    found = problems({key: value})

    assert list(found) == [key]
    assert said in found[key]


def test_an_unknown_name_without_defaults_says_where_resources_come_from():
    """Names that select from nothing are refused, not ignored."""
    assert (
        "add them under event.poller.configuration"
        in problems({"event.poller.urls": "leads"}, {})["event.poller.urls"]
    )


def test_a_line_of_the_old_format():
    """All nine columns of the archived format are read, and a configuration of the same name comes first."""
    line = (
        "accounts|/hubs/crm/accounts?where=LastModifiedDate>=${date}|//x|LastModifiedDate|yyyy-MM-dd'T'HH:mm:ssZ|PST"
        "|CreatedDate|yyyy-MM-dd'T'HH:mm:ssZ|EST"
    )
    (plan,) = compile_plans({"event.poller.urls": line})

    assert render(plan) == [
        "accounts <- accounts WHERE [LastModifiedDate] >= [1534778946123]",
        "id by convention",
        "updated LastModifiedDate as yyyy-MM-dd'T'HH:mm:ssZ in America/Los_Angeles",
        "created CreatedDate as yyyy-MM-dd'T'HH:mm:ssZ in EST",
        "tolerance 10, by updated",
        "extra: xPath=//x",
    ]
    (own,) = compile_plans(
        {"event.poller.urls": line, CONFIGURATION: {"accounts": {"url": "/own"}}}
    )
    assert render_question(own) == "own"


@pytest.mark.parametrize(
    "line",
    [
        "documents|/hubs/documents/events/poll/documents?where=lastmodifieddate='${gmtDate:yyyy-MM-dd'T'HH:mm:ss'Z'}'",
        "envelopes|/hubs/esignature/envelopes?where=from_date='${gmtDate:yyyy-MM-dd'T'HH:mm:ss'Z'}'",
    ],
)
def test_a_short_line_of_the_old_format(line):
    """The short lines of real elements ask with the moment in place."""
    (plan,) = compile_plans({"event.poller.urls": line})

    assert render_question(plan).endswith("= [2018-08-20T15:29:06Z]")


def test_all_problems_are_told_at_once():
    """One refusal names every wrong field by its dotted name, in whichever resource."""
    found = problems(
        {
            CONFIGURATION: {
                "contacts": {
                    "url": "/hubs/crm/contacts?where=lastUpdatedAt>='${date:10 digit integer Unix time}'",
                    "idField": 7,
                    "filterByUpdatedDate": "yes",
                    "filterByCurrentDate": 1,
                    "pageSize": "2.5",
                    "pollDelay": "some seconds",
                    "createdCheckTolerance": -1,
                    "datesConfiguration": {
                        "updatedDateField": "C_DateModified",
                        "updatedDateFormat": "10 digit integer Unix time'",
                        "createdDateField": "a..b[",
                        "createdDateTimezone": "Mars",
                    },
                },
                "leads": {"idField": "id"},
                "notes": 5,
                "tasks": {"url": "/tasks", "datesConfiguration": []},
                "time": {
                    "url": "/time",
                    "datesConfiguration": {"createdDateField": "t", "createdDateFormat": "HH:mm"},
                },
                " ": {"url": "/x"},
            }
        }
    )

    assert {key.removeprefix(f"{CONFIGURATION}.") for key in found} == {
        "contacts.url",
        "contacts.idField",
        "contacts.filterByUpdatedDate",
        "contacts.filterByCurrentDate",
        "contacts.pageSize",
        "contacts.pollDelay",
        "contacts.createdCheckTolerance",
        "contacts.datesConfiguration.updatedDateFormat",
        "contacts.datesConfiguration.createdDateField",
        "contacts.datesConfiguration.createdDateTimezone",
        "leads.url",
        "notes",
        "tasks.datesConfiguration",
        "time.datesConfiguration.createdDateFormat",
        " ",
    }
    assert all(len(sentence) > 20 for sentence in found.values())
    assert "write milliseconds or seconds for Unix time" in found[f"{CONFIGURATION}.contacts.url"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/hubs/crm", "names no resource"),
        ("/", "names no resource"),
        ("?where=a=1", "names no resource"),
        ("https://host/hubs/crm/contacts", "without the https://… before it"),
        ("/hubs/crm/../admin", "'..'"),
        ("/hubs/crm/%2e%2e/admin", "'..'"),
        ("/hubs/crm/a//b", "empty segment"),
        ("/hubs/crm/a b", "the character ' '"),
        ("/hubs/crm/a#b", "the character '#'"),
        ("/x?where=foo", "needs an operator (=, >=, LIKE, IN, IS NULL …) after 'foo' at character 4, but it ends there"),
        ("/x?where=a=1&where=b=2", "where= twice"),
        ("/x?where=a='${gmtDate:yyyy", "'${gmtDate:yyyy' has no closing brace"),
        ("/x?where=a='${518862600}'", "${518862600} is no placeholder"),
        ("/x?where=a='${}'", "${} is no placeholder"),
        ("/x?where=a='${epoch:h}'", "the unit 'h' is not known"),
        ("/x?where=a='${dateTimeZone:yyyy}'", "needs a zone and a date format"),
        ("/x?where=a='${dateTimeZone:Mars:yyyy}'", "no time zone 'Mars'"),
        ("/x?where=a='${dateTimeZone:{TimeZone}:wwww}'", "the letter 'w'"),
        ("/x?filter=${gmtDate:key}", "the letter 'e'"),
        ("/x?where=" + "a=1 and " * 2_000, "longer than 8,000 characters"),
    ],
)  # fmt: skip
def test_a_broken_url_is_refused_with_the_place(url, said):
    """What a url cannot mean is refused in a sentence that quotes it and says what to write."""
    assert said in problem_with_url(url)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("where=a%3D'x%20y'&b=c%26d", "x WHERE [a] = [x y] &b=[c&d]"),
        ("where=name LIKE '%de%'", "x WHERE [name] LIKE [%de%]"),
        ("where=name LIKE '%C3%A9%'", "x WHERE [name] LIKE [é%]"),
        ("where=at>2018-01-01T00:00:00+01:00", "x WHERE [at] > [2018-01-01T00:00:00+01:00]"),
        ("where=a='R&D & more'&fields=a,b", "x WHERE [a] = [R&D & more] &fields=[a,b]"),
        ("WHERE=a=1&flag", "x WHERE [a] = [1&flag]"),
        ("deep[0].name=1&where=", "x &deep[0].name=[1]"),
    ],
)
def test_a_query_string_is_decoded_once_and_split_at_parameters(query, expected):
    """Escapes that are text are undone, wildcards and plus signs stay, an `&` in a value is part of it."""
    (plan,) = compile_plans({CONFIGURATION: {"x": {"url": f"/hubs/crm/x?{query}"}}})

    assert expected == render_question(plan)


def test_a_filled_in_value_cannot_climb_out_of_its_resource():
    """A configuration value becomes one path segment, whatever is in it, and `..` is refused."""
    entry = {CONFIGURATION: {"x": {"url": "/lists/{listId}/members"}}}
    (plan,) = compile_plans({**entry, "listId": "../a?b#c"})

    assert plan.query(SINCE, NOW).resource == "lists/..%2Fa%3Fb%23c/members"
    assert "'..'" in problems({**entry, "listId": ".."})[f"{CONFIGURATION}.x.url"]


@pytest.mark.parametrize("name", ["password", "client_secret", "accessToken", "apiKey"])
def test_a_credential_is_never_filled_into_a_url(name):
    """Urls are logged and shown: a `{name}` of a credential stays unfilled."""
    (plan,) = compile_plans({CONFIGURATION: {"x": {"url": f"/x/{{{name}}}"}}, name: "hunter2"})

    assert (name,) == plan.unfilled
    assert "hunter2" not in repr(plan)


def test_what_is_unfilled_cannot_be_asked():
    """A plan with a `{…}` left in it raises and names it, instead of asking for something else."""
    (plan,) = compile_plans({CONFIGURATION: {"events": {"url": "/calendars/{calendarId}/events"}}})

    with pytest.raises(
        Invalid, match=r"put a value in place of \{calendarId\}, or add 'calendarId'"
    ):
        plan.query(SINCE, NOW)


def test_a_poll_delay_moves_the_question_and_its_since_back():
    """Placeholders and `Query.since` stand for the last poll less `pollDelay`; `now` is not moved."""
    entry = {"url": "/x?from=${epoch:s}&to=${nowTimeZone:GMT:seconds}", "pollDelay": 30}
    (plan,) = compile_plans({CONFIGURATION: {"x": entry}})
    query = plan.query(SINCE, NOW)

    assert SINCE - timedelta(seconds=30) == query.since
    assert (("from", "1534778916"), ("to", "1534779846")) == query.parameters


@pytest.mark.parametrize(
    ("url", "grain", "complete"),
    [
        ("/x", timedelta(), True),
        ("/x?where=a>=2017-02-28", timedelta(), True),
        ("/x?to=${nowTimeZone:GMT:yyyy}", timedelta(), True),
        ("/x?where=a>${epoch}", timedelta(milliseconds=1), False),
        ("/x?where=a>'${date:yyyy-MM-dd HH:mm}' and b>'${epoch:s}'", timedelta(minutes=1), False),
        ("/x?from=${date:yyyy-MM-dd}", timedelta(days=1), False),
        ("/x/${epoch:us}", timedelta(microseconds=1), False),
    ],
)
def test_a_plan_knows_how_finely_and_whether_it_asks_for_what_is_new(url, grain, complete):
    """`grain` is the coarsest unit of the last poll in the url; without one every poll asks the same."""
    (plan,) = compile_plans({CONFIGURATION: {"x": {"url": url}}})

    assert (grain, complete) == (plan.grain, plan.complete)


@settings(deadline=None)
@given(
    st.datetimes(datetime(1971, 1, 1), datetime(9990, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 — hypothesis wants bounds without a zone
    st.sampled_from([form for form in FORMS if "unfilled" not in form[4][0]]),
)
def test_a_question_never_begins_after_the_last_poll(moment, form):
    """Every placeholder is filled in for every moment; read back, it is not later than the last poll."""
    (plan,) = compile_plans({CONFIGURATION: {form[1]: form[2]}, **form[3]})
    query = plan.query(moment, moment + timedelta(hours=1))

    assert query.since is not None
    assert moment >= query.since
    assert "${" not in render_question(plan)
    for term in query.conditions:
        if term.value.isdigit() and len(term.value) == len(str(int(moment.timestamp()))) + 3:
            assert int(term.value) <= moment.timestamp() * 1_000


ENTRIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
KEYS = [
    "url",
    "idField",
    "pageSize",
    "pollDelay",
    "filterByUpdatedDate",
    "datesConfiguration",
    "createdCheckTolerance",
]
DATE_KEYS = [
    "updatedDateField",
    "updatedDateFormat",
    "updatedDateTimezone",
    "createdDateField",
    "createdCheckTolerance",
]
URLS = st.text(alphabet="/?&=%'\"{}$#:.<> ()abyMdT1", max_size=40).map(
    lambda text: "/x?where=" + text
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), ENTRIES | URLS, max_size=5),
    st.dictionaries(st.sampled_from(DATE_KEYS), ENTRIES, max_size=4),
    st.dictionaries(
        st.sampled_from(["event.objects", "event.poller.urls", CONFIGURATION]), ENTRIES, max_size=2
    ),
)
def test_compiling_raises_nothing_but_invalid(entry, dates, further):
    """Whatever arrives as a configuration, it gives plans or an `Invalid` with sentences."""
    own = {"x": {"url": "/x", "datesConfiguration": dates, **entry}}
    found = {}
    try:
        compile_plans({CONFIGURATION: own, **further}, DEFAULTS)
    except Invalid as error:
        found = error.problems
        refused = True
    else:
        refused = False
    assert refused == bool(found)
    assert all(key.startswith("event.") and sentence for key, sentence in found.items())
