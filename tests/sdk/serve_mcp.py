"""Serves one MCP tool at /api/mcp on the loopback port given as the first argument."""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("calculator")


@server.tool()
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


server.run(
    "streamable-http",
    host="127.0.0.1",
    port=int(sys.argv[1]),
    streamable_http_path="/api/mcp",
    stateless_http=True,
)
