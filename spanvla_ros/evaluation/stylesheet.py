"""The frame of the reports: style and the few lines of script."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{
  font: 14.5px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1f2328; background: #f6f8fa;
  max-width: 1240px; margin: 0 auto; padding: 24px;
}}
h1 {{ margin: 0; font-size: 26px; }} h2 {{ margin: 30px 0 8px; font-size: 19px; }} h3 {{ margin: 18px 0 6px; font-size: 16px; }}
header p, .note, h3 small, .facts, figcaption {{ color: #57606a; }} header p {{ margin: 2px 0 16px; }} .note {{ font-size: 13px; margin: 8px 0 0; }}
h3 small {{ font-weight: 400; margin-left: 8px; }} a {{ color: #0a58ca; text-decoration: none; }} a:hover {{ text-decoration: underline; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 10px; }}
.tiles div {{
  background: #fff; border: 1px solid #d8dee4; border-radius: 8px; padding: 10px 12px; display: flex; flex-direction: column;
}}
.tiles span {{ font-size: 13px; color: #57606a; }} .tiles b {{ font-size: 23px; font-variant-numeric: tabular-nums; }}
.tiles small {{ font-size: 11.5px; color: #6e7781; }} .tiles div:first-child {{ border-color: #0a58ca; box-shadow: inset 3px 0 #0a58ca; }}
.wide, .columns, .list {{ background: #fff; border: 1px solid #d8dee4; border-radius: 8px; overflow-x: auto; }}
.columns {{ display: grid; grid-template-columns: 420px 1fr; gap: 24px; padding: 10px 16px; }}
table.numbers {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
.numbers td, .numbers th {{ padding: 5px 10px; border-bottom: 1px solid #eaeef2; text-align: right; white-space: nowrap; }}
.numbers tr:first-child th {{ font-size: 12.5px; color: #57606a; font-weight: 600; }}
.numbers th:first-child {{ text-align: left; font-weight: 500; }}
.numbers tr:last-child td, .numbers tr:last-child th {{ border-bottom: 0; }}
.numbers .total td, .numbers .total th {{ border-top: 2px solid #d0d7de; font-weight: 600; }}
.numbers .text {{ text-align: left; color: #57606a; white-space: normal; }}
.verdict {{ color: #fff; border-radius: 8px; padding: 9px 14px; font-size: 17px; font-weight: 600; margin: 0 0 16px; }}
.key span {{ margin-right: 16px; font-size: 13px; color: #57606a; }}
.key i {{ display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 5px; }}
.bad {{ color: #cf222e; }} .none {{ color: #afb8c1; }}
.bar {{
  display: inline-block; width: 60px; height: 8px; background: #eaeef2; border-radius: 4px; overflow: hidden;
  margin-right: 8px; vertical-align: 1px; text-align: left;
}}
.bar i {{ display: block; height: 100%; }}
.clips {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)); gap: 12px; }}
figure {{ margin: 0; background: #fff; border: 1px solid #d8dee4; border-radius: 8px; overflow: hidden; }}
figure img {{ width: 100%; display: block; }} figcaption {{ padding: 7px 10px; font-size: 13px; }} figcaption b {{ color: #cf222e; margin: 0 6px; }}
details {{ border-bottom: 1px solid #eaeef2; padding: 0 12px; }} details:last-child {{ border-bottom: 0; }}
summary {{
  display: flex; gap: 16px; align-items: baseline; padding: 5px 0; cursor: pointer; font-variant-numeric: tabular-nums; list-style: none;
}}
summary::before {{ content: "▸"; color: #57606a; }} details[open] > summary::before {{ content: "▾"; }}
.failed .seed {{ color: #cf222e; font-weight: 600; }} .score {{ min-width: 110px; }} summary span {{ white-space: nowrap; }}
summary em {{ font-style: normal; color: #57606a; font-size: 13px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }}
details:target {{ background: #fff8c5; }} .facts {{ margin: 4px 0; font-size: 13px; }} ol {{ margin: 4px 0 8px; font-size: 13px; }}
svg {{ display: block; width: 100%; max-width: 1000px; height: auto; max-height: 480px; margin: 0 0 10px; border-radius: 6px; }}
svg text {{ font: 10.5px system-ui, sans-serif; fill: #57606a; }}
@media (max-width: 800px) {{ .columns {{ grid-template-columns: 1fr; }} }}
</style></head><body>
{body}
<script>
// a link to an episode opens it
function show() {{
  const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (found && found.tagName === "DETAILS") found.open = true;
}}
addEventListener("hashchange", show); show();
</script>
</body></html>
"""
