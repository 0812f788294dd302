"""Runs a case of the MCP SDK's streamable HTTP client against the gateway; the first argument names the case."""

import asyncio
import sys

import expect
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

# The handshakes of a client: `initialize`, and the SDK's default.
MODES = ["legacy", "auto"]


async def use(mode, then):
    """Connects and runs `then`; returns the statuses of all responses, and the errors."""
    statuses, errors = [], []

    async def seen(response):
        statuses.append(response.status_code)

    async with create_mcp_http_client(headers={"Authorization": f"Bearer {expect.KEY}"}) as http:
        http.event_hooks = {"response": [seen]}
        try:
            async with Client(streamable_http_client(expect.URL, http_client=http), mode=mode) as client:
                await then(client)
        except* MCPError as group:
            errors.extend(group.exceptions)
    return statuses, errors


async def list_and_call(client):
    expect.equal(client.server_info.name, "calculator", "the server's name")
    tools = (await client.list_tools()).tools
    expect.equal([tool.name for tool in tools], ["add"], "the tools")
    result = await client.call_tool("add", {"a": 2, "b": 40})
    expect.equal((result.is_error, result.content[0].text), (False, "42"), "the tool's result")


async def not_reached(_client):
    expect.fail("expected a refusal, but the client connected")


async def good():
    for mode in MODES:
        statuses, errors = await use(mode, list_and_call)
        expect.equal(errors, [], f"{mode}: the errors")
        if not set(statuses) <= {200, 202, 405}:
            expect.fail(f"{mode}: the statuses are {statuses}")


async def bad():
    for mode in MODES:
        statuses, errors = await use(mode, not_reached)
        expect.equal(set(statuses), {401}, f"{mode}: the statuses")
        expect.equal(len(errors), 1, f"{mode}: the number of errors")


asyncio.run({case.__name__: case for case in [good, bad]}[sys.argv[1]]())
