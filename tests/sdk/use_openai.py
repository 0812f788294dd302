"""Runs a case of OpenAI's SDK against the gateway; the first argument names the case."""

import sys

import expect
import openai


def client(**more):
    return openai.OpenAI(base_url=expect.URL, api_key=expect.KEY, **{"max_retries": 0, **more})


def ask(of):
    return of.chat.completions.create(model="gpt-test", messages=[{"role": "user", "content": "Are you there?"}])


def text(completion):
    return completion.choices[0].message.content


def refused(error, type_of_error, code, status):
    raised = expect.refused(lambda: ask(client()), error)
    expect.equal((raised.type, raised.code, raised.status_code), (type_of_error, code, status), "the error")


def good():
    expect.equal(text(ask(client())), "I am here.", "the completion")


def bad():
    refused(openai.AuthenticationError, "invalid_request_error", "invalid_api_key", 401)


def forbidden():
    refused(openai.PermissionDeniedError, "invalid_request_error", "insufficient_permissions", 403)


def limited():
    raised = expect.limited(lambda: ask(client()), openai.RateLimitError)
    expect.equal(raised.code, "rate_limit_exceeded", "the error's code")


def unavailable():
    refused(openai.InternalServerError, "server_error", "service_unavailable", 503)


def retried():
    exchanges = expect.Exchanges()
    http = openai.DefaultHttpxClient(event_hooks=exchanges.hooks)
    with client(max_retries=2, http_client=http) as of:
        exchanges.retried(lambda: expect.equal(text(ask(of)), "I am here.", "the completion"))


CASES = [good, bad, forbidden, limited, unavailable, retried]
{case.__name__: case for case in CASES}[sys.argv[1]]()
