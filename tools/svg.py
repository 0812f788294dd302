"""Shared parts of the plotting tools. Needs only Python's standard library."""

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.caption, .tick { font-size: 11px; fill: #57606a }
.grid { stroke: #d0d7de; stroke-width: .6 }
"""


class Svg:
    """An SVG image under construction."""

    def __init__(self, width, height, title, style):
        self.width, self.height, self.title, self.style = width, height, title, style
        self.parts = []

    def add(self, part):
        self.parts.append(part)

    def text(self, x, y, text, style, anchor="start"):
        self.add(f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>')

    def render(self, described):
        """The file; `described` is the text alternative."""
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        return (f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{self.title}</title>\n'
                f'<desc>{described}</desc>\n<style>{STYLE}{self.style}</style>\n'
                '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def nice_steps(top):
    """Ticks from 0 to at least `top`."""
    sizes = (step * 10**power for power in range(9) for step in (1, 2, 5))
    step = next(step for step in sizes if top / step <= 5)
    return range(0, step * (int(-(-top // step))) + 1, step)
