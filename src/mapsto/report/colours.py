"""The colours of pages: a CSS variable for each, in light and in dark, and the placeholder colours of matplotlib's charts."""

from __future__ import annotations

# Placeholder colours that matplotlib writes: text, axes, grid, and the lines of a chart.
INK, QUIET, LINE = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0404{i:02x}" for i in range(8))

# Red, green, blue, so that a page can make them transparent: --for and --against are right and wrong parts of an answer,
# --raises and --lowers the ends of the scale of attributions (orange and blue, which colour-blind readers can tell apart), and
# --heat that of counts.
LIGHT = {
    "--paper": "#fff", "--ink": "#1b1f24", "--quiet": "#59636e", "--line": "#d4d9df", "--soft": "#f3f5f7", "--accent": "#0a58ca",
    "--c0": "#59636e", "--c1": "#c2410c", "--c2": "#0a58ca", "--c3": "#15803d", "--c4": "#8b2fc9", "--c5": "#a16207",
    "--c6": "#be185d", "--c7": "#0e7490", "--for": "21, 128, 61", "--against": "190, 24, 93", "--raises": "234, 88, 12",
    "--lowers": "37, 99, 235", "--heat": "10, 88, 202", "--warn": "#fff4e0",
}  # fmt: skip
DARK = {
    "--paper": "#14171b", "--ink": "#e8eaed", "--quiet": "#a3adb8", "--line": "#3a424b", "--soft": "#1e2329",
    "--accent": "#7db2ff", "--c0": "#a3adb8", "--c1": "#ff9a5c", "--c2": "#7db2ff", "--c3": "#6fd08c", "--c4": "#d3a1ff",
    "--c5": "#e6c35c", "--c6": "#ff8fc0", "--c7": "#6fd3e6", "--for": "74, 180, 110", "--against": "240, 90, 150",
    "--raises": "255, 140, 66", "--lowers": "92, 150, 255", "--heat": "125, 178, 255", "--warn": "#3a2c14",
}  # fmt: skip
VARIABLES = {INK: "--ink", QUIET: "--quiet", LINE: "--line", **{colour: f"--c{i}" for i, colour in enumerate(SERIES)}}
