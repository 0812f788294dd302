"""Manages keys with the MCP SDK's client at the control plane; KEYWARD_SDK_KEY is a token, the first argument the case."""

import asyncio
import sys

import expect
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

# The handshakes of a client: `initialize`, and the SDK's default.
MODES = ["legacy", "auto"]


async def use(mode, then):
    """Connects and runs `then`; returns the errors."""
    errors = []
    async with create_mcp_http_client(headers={"Authorization": f"Bearer {expect.KEY}"}) as http:
        try:
            async with Client(streamable_http_client(expect.URL, http_client=http), mode=mode) as client:
                await then(client)
        except* MCPError as group:
            errors.extend(group.exceptions)
    return errors


async def manage(client):
    expect.equal(client.server_info.name, "keyward", "the server's name")

    async def call(tool, **arguments):
        result = await client.call_tool(tool, arguments)
        if result.is_error:
            expect.fail(f"{tool}: {result.content[0].text}")
        return result.structured_content

    created = await call("create_key", name="CI Pipeline", owner="acme")
    if not created["key"].startswith("kw_live_"):
        expect.fail("expected the new key in the result")
    key_id = created["id"]
    shown = await call("show_key", id=key_id)
    expect.equal(("key" in shown, shown["name"]), (False, "CI Pipeline"), "the key that is shown")
    rotated = await call("rotate_key", id=key_id, grace_s=0)
    expect.equal((rotated["id"], rotated["key"] == created["key"]), (key_id, False), "the rotated key")
    found = await call("list_keys", search=key_id)
    expect.equal([key["id"] for key in found["keys"]], [key_id], "the keys in the list")
    expect.equal((await call("why", id=key_id))["verdict"], "allow", "the verdict")
    expect.equal((await call("key_usage", id=key_id))["totals"], {}, "the usage")
    expect.equal((await call("revoke_key", id=key_id))["state"], "revoked", "the state")
    again = await client.call_tool("rotate_key", {"id": key_id})
    expect.equal(again.is_error, True, "whether a revoked key cannot be rotated")


async def look(client):
    tools = {tool.name for tool in (await client.list_tools()).tools}
    expect.equal(tools, {"list_keys", "count_keys", "show_key", "key_usage", "why"}, "the tools of a viewer")
    refused = await client.call_tool("create_key", {"name": "x"})
    expect.equal((refused.is_error, "insufficient_role" in refused.content[0].text), (True, True), "the refusal")


async def not_reached(_client):
    expect.fail("expected a refusal, but the client connected")


async def operator():
    for mode in MODES:
        expect.equal(await use(mode, manage), [], f"{mode}: the errors")


async def viewer():
    for mode in MODES:
        expect.equal(await use(mode, look), [], f"{mode}: the errors")


async def bad():
    for mode in MODES:
        expect.equal(len(await use(mode, not_reached)), 1, f"{mode}: the number of errors")


asyncio.run({case.__name__: case for case in [operator, viewer, bad]}[sys.argv[1]]())
