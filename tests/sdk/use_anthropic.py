"""Runs a case of Anthropic's SDK against the gateway; the first argument names the case."""

import sys

import anthropic
import expect


def client(**more):
    return anthropic.Anthropic(base_url=expect.URL, **{"api_key": expect.KEY, "max_retries": 0, **more})


def ask(of):
    return of.messages.create(
        model="claude-test", max_tokens=16, messages=[{"role": "user", "content": "Are you there?"}]
    )


def refused(error, type_of_error, status):
    raised = expect.refused(lambda: ask(client()), error)
    expect.equal((raised.type, raised.status_code), (type_of_error, status), "the error")


def good():
    # The SDK sends a key as x-api-key, and a token as Authorization: Bearer.
    for credential in ({"api_key": expect.KEY}, {"api_key": None, "auth_token": expect.KEY}):
        message = ask(client(**credential))
        expect.equal(message.content[0].text, "I am here.", "the message")


def bad():
    refused(anthropic.AuthenticationError, "authentication_error", 401)


def forbidden():
    refused(anthropic.PermissionDeniedError, "permission_error", 403)


def limited():
    raised = expect.limited(lambda: ask(client()), anthropic.RateLimitError)
    expect.equal(raised.type, "rate_limit_error", "the error's type")


def unavailable():
    refused(anthropic.InternalServerError, "overloaded_error", 503)


def retried():
    exchanges = expect.Exchanges()
    http = anthropic.DefaultHttpxClient(event_hooks=exchanges.hooks)
    with client(max_retries=2, http_client=http) as of:
        exchanges.retried(lambda: expect.equal(ask(of).content[0].text, "I am here.", "the message"))


CASES = [good, bad, forbidden, limited, unavailable, retried]
{case.__name__: case for case in CASES}[sys.argv[1]]()
