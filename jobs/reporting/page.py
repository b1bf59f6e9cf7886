"""The report as one HTML page: inline style and SVG, no script, no network. All that came from outside is escaped."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
import soundfile

from jobs.cluster.places import local_or_url
from jobs.reporting.facts import Rejects, ReportFacts, SampleStrip
from jobs.reporting.models import count_text, models, recordings, seconds_text
from jobs.reporting.strips import bar_chart, clean, draw_strip
from jobs.reporting.summary import FUNNEL
from jobs.reporting.timeline import draw
from schemas.audio import PATCH_FILLER, PATCH_SILENCE, PATCH_WORD, SAMPLE_RATE
from schemas.commit import SHARDS
from schemas.tables import Recording, Segment

PATCH_NAMES = {PATCH_WORD: "word", PATCH_SILENCE: "silence", PATCH_FILLER: "filler"}
BAR_LIMIT = 512
"""A larger vocabulary is drawn in groups of units: no screen has more columns to tell apart."""
LONGEST_SHARE = 0.99
"""The patch-length axis ends where this share of patches does; the last bar holds the rest."""
SECURITY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:"


def render(facts: ReportFacts, title: str, meta: Mapping[str, str], colours: Sequence[str]) -> str:
    """The page. `meta` goes into <meta> tags, `colours` are those of the units."""
    tags = "".join(f'<meta name="{clean(name)}" content="{clean(value)}">\n' for name, value in meta.items())
    style = files("jobs.reporting").joinpath("report.css").read_text(encoding="utf-8")
    sections = (
        _headline(facts),
        _section("Where the audio went", _funnel(facts)),
        _section("Rejects", _rejects(facts.rejects)),
        *(_of_shards(facts, colours) if facts.index.shards else ()),
        _section("Time per stage", _speed(facts)),
        _section("Who was busy when", draw(facts.timeline)),
        _section("Models and licences", recordings(facts) + models(facts.index.cards.values())),
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{tags}'
        f'<meta http-equiv="Content-Security-Policy" content="{clean(SECURITY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{clean(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{clean(title)}</h1>\n{''.join(sections)}{_footer(facts)}</main>\n</body>\n</html>\n"
    )


def _of_shards(facts: ReportFacts, colours: Sequence[str]) -> tuple[str, ...]:
    """What only a finished set has."""
    return (
        _section("What it looks like", _strips(facts.strips, colours)),
        _section("Units", _usage(facts, colours)),
        _section("Patches", _lengths(facts)),
    )


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{clean(heading)}</h2>\n{body}\n</section>\n"


def _headline(facts: ReportFacts) -> str:
    totals = facts.index.totals
    doubtful = totals.get("doubtful_words", 0)
    per_patch = totals["frames"] / max(totals["patches"], 1)
    tiles = (
        (seconds_text(facts.audio_seconds), "audio in"),
        (seconds_text(totals["seconds"]), "in shards"),
        (f"{totals['words']:,}", f"words, {doubtful:,} of them doubtful" if doubtful else "words"),
        (f"{totals['frames']:,}", f"units of {1000 * facts.index.hop / SAMPLE_RATE:g} ms"),
        (f"{totals['patches']:,}", f"patches, {per_patch:.1f} units each"),
        (f"{totals['samples']:,}", f"samples in {count_text(len(facts.index.shards), 'shard')}"),
    )
    return (
        '<div class="tiles">'
        + "".join(f"<div><b>{clean(value)}</b><span>{clean(name)}</span></div>" for value, name in tiles)
        + "</div>\n"
    )


def _funnel(facts: ReportFacts) -> str:
    whole = max(facts.audio_seconds, *(total.hours_out * 3600 for total in facts.stages.values()), 1e-9)
    rows = [_funnel_row("in", facts.audio_seconds, 0.0, whole, "as the files' headers say")]
    for name, total in facts.stages.items():
        rows.append(
            _funnel_row(
                FUNNEL[name],
                total.hours_out * 3600,
                total.hours_rejected * 3600,
                whole,
                f"{name}: {total.rows_out} of {total.rows_in} rows passed on",
            )
        )
    rows.append(_funnel_row("rejected", 0.0, facts.rejects.seconds, whole, "all stages; each row once"))
    uncovered = facts.index.totals.get("speech_uncovered", 0.0)
    filler = f" {seconds_text(uncovered)} of speech are in no word (filler patches)." if uncovered else ""
    left_out = f" Not listed: {clean(facts.plan.not_listed)}." if facts.plan.not_listed else ""
    return (
        f'<div class="funnel">{"".join(rows)}</div>'
        f'<p class="note">{_balance(facts)} Red: rejected by that stage. Between “decoded” and “speech” lie pauses.'
        f"{filler}{left_out}</p>"
    )


def _funnel_row(label: str, kept: float, rejected: float, whole: float, title: str) -> str:
    bar = f'<i class="kept" style="width:{100 * kept / whole:.2f}%"></i>'
    if rejected > 0:
        bar += f'<i class="lost" style="width:max(2px,{100 * rejected / whole:.2f}%)"></i>'
    shown = rejected if label == "rejected" else kept
    number = f"{seconds_text(shown)} <small>{100 * shown / whole:.1f}%</small>"
    return (
        f'<div class="stage" title="{clean(title)}"><span class="name">{clean(label)}</span>'
        f'<span class="bar">{bar}</span><span class="number">{number}</span></div>'
    )


def _balance(facts: ReportFacts) -> str:
    """Whether speech went to shards or to rejects and nowhere else, in a sentence."""
    if not facts.index.shards:
        return "There are no shards: the run is not finished, was ended by its rejects, or rejected everything."
    speech, shards = (facts.stages[name].hours_out * 3600 for name in (Segment.TABLE, SHARDS))
    early = sum(group.seconds for group in facts.rejects.groups if group.stage in (Recording.TABLE, Segment.TABLE))
    lost = facts.rejects.seconds - early
    sums = f"{seconds_text(speech)} of speech, {seconds_text(shards)} in shards and {seconds_text(lost)} rejected after"
    if facts.rejects.are_estimated:
        return f"About {sums} segmentation."
    holds = abs(speech - shards - lost) < 0.01
    return f"{'Nothing vanished' if holds else 'This does not add up'}: {sums} segmentation."


def _rejects(rejects: Rejects) -> str:
    groups = rejects.groups
    if not groups:
        return "<p>Nothing was rejected.</p>"
    parts = []
    for group in groups:
        sentences = "".join(
            f"<li><code>{clean(name)}</code> {clean(detail.removeprefix(name + ': '))}</li>"
            for name, detail in group.examples
        )
        more = group.count - len(group.examples)
        rest = f'<li class="note">and {more} more</li>' if more else ""
        parts.append(
            f"<details{' open' if len(groups) <= 4 else ''}><summary><b>{clean(group.code)}</b> "
            f"{count_text(group.count, 'row')} of {clean(group.stage)}, {seconds_text(group.seconds)}</summary>"
            f"<ul>{sentences}{rest}</ul></details>"
        )
    if rejects.are_estimated:
        read = f"{rejects.tables_read} of {rejects.tables} tables of rejects"
        parts.append(f'<p class="note">Seconds and examples are of {read}, spread evenly; rows are counted.</p>')
    return "".join(parts)


# strips -----------------------------------------------------------------------------------------------------------------

LEGEND = (
    ("aligned", "word, heard by the aligner"),
    ("star", "word heard, its sounds guessed"),
    ("interpolated", "word placed between neighbours"),
    ("doubtful", "word placed, hardly heard there"),
    ("word", "patch of a word"),
    ("silence", "patch of silence"),
    ("filler", "patch of speech no word covers"),
)


def _strips(strips: Sequence[SampleStrip], colours: Sequence[str]) -> str:
    if not strips:
        return "<p>The shards hold no sample.</p>"
    shown = {word.timing for item in strips for word in item.strip.words}
    shown |= {PATCH_NAMES[kind] for item in strips for _, _, kind in item.strip.patches}
    keys = "".join(f'<span><i class="key {name}"></i>{text}</span>' for name, text in LEGEND if name in shown)
    join = (
        '<span><i class="key join"></i>next segment of the recording</span>'
        if any(item.strip.joins for item in strips)
        else ""
    )
    swatches = "".join(f'<b style="background:{colour}"></b>' for colour in colours[:: max(len(colours) // 8, 1)][:8])
    legend = (
        f'<div class="legend">{keys}<span><i class="key units">{swatches}</i>units: a colour each</span>'
        f'<span><i class="key bound"></i>patch bound</span>{join}</div>'
    )
    return (
        f"<p>{count_text(len(strips), 'window')}, drawn from the shards: what the model will read. Point at a box to see what "
        f"it is. Times are seconds of the sample; each waveform is as high as its own peak.</p>"
        + legend
        + "".join(_strip(item, colours) for item in strips)
    )


def _strip(item: SampleStrip, colours: Sequence[str]) -> str:
    start = item.strip.first_second
    end = item.strip.seconds(len(item.strip.units))
    audio = ""
    if item.playable and item.strip.audio is not None and len(item.strip.audio):
        audio = f'<audio controls preload="metadata" src="data:audio/mpeg;base64,{mp3(item.strip.audio)}"></audio>'
    heading = (
        f"<b>{clean(item.uri)}</b> <span>{start:.2f} to {end:.2f} s of sample <code>{clean(item.key)}</code>, "
        f"from {item.recording_seconds:.2f} s of the recording</span>"
    )
    return (
        f'<figure class="sample"><figcaption>{heading}</figcaption>'
        f'<div class="scroll" tabindex="0">{draw_strip(item.strip, colours, f"strip of {item.uri}")}</div>'
        f'<div class="said"><q>{clean(item.text)}</q>{audio}</div></figure>'
    )


def mp3(audio: np.ndarray) -> str:
    buffer = io.BytesIO()
    soundfile.write(
        buffer, np.clip(audio, -1.0, 1.0), SAMPLE_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.7
    )  # about 30 kbit/s
    return base64.b64encode(buffer.getvalue()).decode("ascii")


# histograms -------------------------------------------------------------------------------------------------------------


def _chart(caption: str, drawing: str, ticks: Sequence[tuple[float, str]], top: str) -> str:
    """A drawing with its highest value above it and ticks, (share of the width, text), below it."""
    below = "".join(f'<span style="left:{100 * place:.2f}%">{clean(text)}</span>' for place, text in ticks)
    return (
        f'<figure class="plot"><figcaption>{caption}</figcaption><div class="top">{clean(top)}</div>'
        f'{drawing}<div class="ticks">{below}</div></figure>'
    )


def _coverage(facts: ReportFacts) -> str:
    read, all_of_them = facts.statistics.shards_read, facts.statistics.shards
    return "" if read == all_of_them else f" Counted in {read} of {all_of_them} shards, spread evenly over the set."


def _usage(facts: ReportFacts, colours: Sequence[str]) -> str:
    usage = facts.statistics.usage
    order = np.argsort(-usage, kind="stable")
    frames = max(int(usage.sum()), 1)
    share = usage[order] / frames
    present = share[share > 0]
    effective = float(np.exp(-(present * np.log(present)).sum())) if len(present) else 0.0
    groups = [part.tolist() for part in np.array_split(np.arange(len(order)), min(len(order), BAR_LIMIT))]
    titles = [
        f"unit {order[group[0]]}: {usage[order[group[0]]]} times, {share[group[0]]:.2%}"
        if len(group) == 1
        else f"units ranked {group[0] + 1} to {group[-1] + 1}: {share[group].mean():.3%} each"
        for group in groups
    ]
    heights = [float(share[group].mean()) for group in groups]
    drawing = bar_chart(heights, titles, [colours[order[group[0]]] for group in groups], level=1 / len(order))
    places = [rank for rank in (1, len(order) // 4, len(order) // 2, 3 * len(order) // 4, len(order)) if rank]
    ticks = [((rank - 0.5) / len(order), f"{rank}") for rank in places]
    unused = int((usage == 0).sum())
    caption = (
        f"How often each of the {len(order)} units is used, most used first. Dashed: all equally often. "
        f"The usage is as varied as that of {effective:.0f} equally used units; {unused or 'none'} "
        f"{'is' if unused == 1 else 'are'} never used.{_coverage(facts)}"
    )
    return _chart(caption, drawing, ticks, f"{100 * max(heights, default=0):.1f}% of {frames:,} units")


def _lengths(facts: ReportFacts) -> str:
    frame = facts.index.hop / SAMPLE_RATE
    charts = "".join(
        _length_chart(PATCH_NAMES[kind], facts.statistics.lengths[kind], frame)
        for kind in PATCH_NAMES
        if facts.statistics.lengths.get(kind)
    )
    return f'<div class="pair">{charts}</div><p class="note">One bar per length in units.{_coverage(facts)}</p>'


def _length_chart(name: str, lengths: Counter[int], frame: float) -> str:
    values = np.repeat(*(np.array(column) for column in zip(*sorted(lengths.items()), strict=True)))
    limit = max(int(np.ceil(np.quantile(values, LONGEST_SHARE))), 8)
    counts = np.bincount(np.minimum(values, limit + 1), minlength=limit + 2)[1:]
    if not counts[-1]:
        counts = counts[:-1]
    titles = [
        f"{number * frame:.2f} s ({count_text(number, 'unit')}): {count}"
        for number, count in enumerate(counts.tolist(), 1)
    ]
    if len(counts) > limit:
        titles[-1] = f"longer than {limit * frame:.2f} s: {counts[-1]}"
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 1e9) if limit * frame / step <= 6)
    marks = np.arange(step, limit * frame + 1e-9, step)
    ticks = [((mark / frame - 0.5) / len(counts), f"{mark:g} s") for mark in marks]
    if len(counts) > limit:
        ticks = [(place, text) for place, text in ticks if place < 0.88] + [((limit + 0.5) / len(counts), "more")]
    caption = (
        f"<b>{count_text(len(values), f'{name} patch', 'es')}</b>, median {np.median(values) * frame:.2f} s, "
        f"mean {values.mean() * frame:.2f} s ({values.mean():.1f} units), longest {values.max() * frame:.2f} s"
    )
    return _chart(caption, bar_chart(counts.tolist(), titles, name), ticks, f"{int(counts.max())} patches")


# tables -----------------------------------------------------------------------------------------------------------------


def _speed(facts: ReportFacts) -> str:
    whole = max(sum(total.seconds_busy for total in facts.stages.values()), 1e-9)
    rows = []
    for name, total in facts.stages.items():
        share = total.seconds_busy / whole
        faster = f"{1 / total.real_time_factor:,.0f}×" if total.real_time_factor else "–"
        rows.append(
            f"<tr><th>{clean(name)}</th><td>{seconds_text(total.hours_in * 3600)}</td><td>{total.seconds_busy:.1f} s</td>"
            f"<td>{total.real_time_factor:.4f}</td><td>{faster}</td>"
            f'<td class="wide"><span class="bar"><i class="kept" style="width:{100 * share:.1f}%"></i></span></td></tr>'
        )
    return (
        '<div class="scroll"><table><thead><tr><th>stage</th><th>audio</th><th>busy</th><th>real-time factor</th>'
        f'<th>speed</th><th class="wide">share of the work</th></tr></thead><tbody>{"".join(rows)}</tbody>'
        '</table></div><p class="note">Real-time factor: seconds of work, in one worker and without loading models, per second '
        "of audio that came into the stage. Speed: its inverse.</p>"
    )


def _footer(facts: ReportFacts) -> str:
    place = local_or_url(facts.plan.spec.output)
    return (
        f"<footer>Read from <code>{clean(place)}</code>, index <code>{facts.index.fingerprint[:16]}</code>. "
        "Every number comes from the commits and the shards themselves.</footer>\n"
    )
