"""What a person sees on the terminal: tables that are nice to read."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def nats(estimate: Mapping[str, Any] | None) -> str:
    """A value with its standard error, as `-102.61 ± 0.84`."""
    return "" if estimate is None else f"{estimate['nats']:.2f} ± {estimate['stderr']:.2f}"


def summary(value: Mapping[str, Any], console: Console) -> None:
    """What a run did: rows, bounds, features, model, and where everything is."""
    rows = _facts(f"[bold]{value['dataset']}[/]  [dim]{value['run_id'] or ''}[/]")
    counts = value["rows"]
    rows.add_row("rows in", f"{counts['in']:,}  [dim]{_splits(counts)}[/]")
    publication = value.get("publication")
    if publication:
        rows.add_row(
            "rows out",
            f"{publication['rows']:,}  [dim]{len(publication['columns'])} columns[/]",
        )
    if value.get("elbo"):
        rows.add_row(
            "test ELBO", f"{nats(value['elbo'])} nats  [dim]{value['elbo']['rows']:,} rows[/]"
        )
        marginal = value["log_marginal"]
        rows.add_row(
            "test log p(x)",
            f"{nats(marginal)} nats  [dim]{marginal['rows']:,} rows, "
            f"{marginal['importance_samples']:,} importance samples[/]",
        )
        rows.add_row(
            "", f"[dim]k̂ trusts it for {1 - marginal['untrusted_fraction']:.0%} of rows[/]"
        )
        if value.get("bounds"):
            lower, upper, width = (
                value["bounds"][name] for name in ("lower", "upper", "width")
            )
            rows.add_row(
                "",
                f"[dim]bounds on {width['rows']} simulated rows: {lower['nats']:.2f} below, "
                f"{upper['nats']:.2f} above, {nats(width)} apart[/]",
            )
        rows.add_row("", f"[dim]independent columns {nats(value['independent'])} nats[/]")
        if value.get("factor_analysis"):
            linear = nats(value["factor_analysis"])
            rows.add_row("", f"[dim]factor analysis of the same width {linear} nats[/]")
        rows.add_row("active units", f"{value['active_units']} of {value['latents']}")
    for probe in value.get("probe") or []:
        kind, _, score = probe["name"].replace("_ami", "_AMI").partition("_")
        rows.add_row(
            f"{kind} probe",
            f"{probe['latents']:.3f} {score} from latents  [dim]{probe['pca']:.3f} from PCA of "
            f"the same width, {probe['inputs']:.3f} from the raw columns "
            f"({value['label']!r}, {probe['test_rows']:,} rows)[/]",
        )
    model = value.get("model")
    if model:
        aliases = ", ".join(model["aliases"]) or "no alias"
        rows.add_row("model", f"{model['name']} version {model['version']} ({aliases})")
        rows.add_row("", f"[dim]{model['verdict']}[/]")
    if publication:
        rows.add_row("features", publication["path"])
        rows.add_row("read them with", f"[bold]{publication['read']}[/]")
    if value.get("report"):
        rows.add_row("report", value["report"])
    rows.add_row("stages", _stages(value["stages"]))
    console.print(rows)


def profiled(value: Mapping[str, Any], console: Console) -> None:
    """What a run did, and where its time went."""
    summary(value, console)
    profile = value["profile"]
    rows = _facts("")
    for name, seconds in profile["overhead"].items():
        rows.add_row(name, f"{seconds:7.2f} s")
    rows.add_row("[bold]beyond the stages[/]", f"[bold]{profile['overhead_s']:7.2f} s[/]")
    for name, seconds in profile["stages"].items():
        rows.add_row(f"stage {name}", f"{seconds:7.2f} s")
    rows.add_row("[bold]total[/]", f"[bold]{profile['total_s']:7.2f} s[/]")
    console.print(rows)


def _facts(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _splits(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[name]:,} {name}" for name in ("train", "valid", "test"))


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> str:
    return "  ".join(
        f"{name} [{'dim' if stage['status'] == 'reused' else 'green'}]{stage['status']}[/]"
        f" [dim]{stage['seconds']:.1f} s[/]"
        for name, stage in stages.items()
    )


def sweep(value: Mapping[str, Any], console: Console) -> None:
    """What each combination of settings came to."""
    names = list(value["sweep"][0]["settings"])
    table = Table(
        *[name.partition(".")[2] for name in names],
        "steps", "seconds", "test ELBO (nats)", "log p(x) (nats)", "active units",
        box=None, padding=(0, 2, 0, 0), title=f"[bold]{value['dataset']}[/]",
        title_justify="left",
    )  # fmt: skip
    for row in value["sweep"]:
        table.add_row(
            *[str(row["settings"][name]) for name in names],
            f"{row['steps']:,}",
            f"{row['train_s']:.0f}",
            nats(row["elbo"]),
            nats(row["log_marginal"]),
            str(row["active_units"]),
        )
    console.print(table)
    console.print(f"results {value['results']}\ncurves {value['curves']}", soft_wrap=True)


def publications(value: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Every publication, a line each."""
    if not value:
        console.print("no features are published in this home; `latents run SPEC` makes some")
        return
    table = Table("name", "version", "publication", "rows", "", box=None, padding=(0, 2, 0, 0))
    for row in value:
        table.add_row(
            row["name"],
            f"v{row['model_version']}",
            row["publication"],
            f"{row['rows']:,}",
            "latest" if row["latest"] else "",
        )
    console.print(table)


def publication(value: Mapping[str, Any], console: Console) -> None:
    """One publication: what it holds and how to read it."""
    manifest = value["manifest"]
    table = _facts(f"[bold]{value['name']}[/]")
    table.add_row("rows", f"{value['rows']:,}")
    table.add_row("latents", str(value["latents"]))
    table.add_row(
        "model", f"{manifest['model']['name']} version {manifest['model']['version']}"
    )
    table.add_row("data set", f"{manifest['dataset']} [dim]{manifest['fingerprint']}[/]")
    table.add_row("path", value["path"])
    names = [f"{name} [dim]{kind}[/]" for name, kind in value["columns"]]
    shown = (
        names if len(names) <= 12 else [*names[:8], f"… {len(names) - 10} more", *names[-2:]]
    )
    table.add_row("columns", "\n".join(shown))
    table.add_row("read it with", f"[bold]{value['read']}[/]")
    console.print(table)


def models(value: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Versions with aliases, ELBO and log p(x)."""
    if not value:
        console.print("no model is registered in this home; `latents run SPEC` makes one")
        return
    table = Table(
        "model",
        "version",
        "alias",
        "test ELBO (nats)",
        "log p(x) (nats)",
        "gate",
        "publication",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for row in value:
        table.add_row(
            row["model"],
            str(row["version"]),
            ", ".join(row["aliases"]),
            nats(row["elbo"]),
            nats(row["log_marginal"]),
            row["gate"] or "",
            row["publication"] or "",
        )
    console.print(table)


def promotion(value: Mapping[str, Any], console: Console) -> None:
    """Which version was champion, and which is now."""
    before = "none" if value["before"] is None else f"version {value['before']}"
    console.print(f"{value['model']}: champion is version {value['champion']} (was {before})")
    if value["publication"] is None:
        console.print(
            "its rows are not in this home, so readers keep the old features until you run "
            "[bold]latents encode SPEC[/] where they are"
        )
    else:
        console.print(f"readers follow: publication {value['publication']}")


def path(value: Mapping[str, str], console: Console) -> None:
    """The path of what was written, alone on a line, for scripts and for clicking."""
    console.print(*value.values(), soft_wrap=True, highlight=False)


def findings(value: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The doctor's findings, a line each."""
    for finding in value:
        mark = "[green]ok[/]  " if finding["ok"] else "[red]FAIL[/]"
        console.print(f"{mark} {finding['what']:<15} {finding['detail']}", highlight=False)


def deployment(value: Mapping[str, Any], console: Console) -> None:
    """What was deployed, when it runs, and how to run it now."""
    table = _facts(f"[bold]{value['deployment']}[/]")
    when = f"{value['cron']} ({value['timezone']})" if value["cron"] else "no schedule"
    table.add_row("runs", ", ".join([when, *(f"on {event}" for event in value["on"])]))
    table.add_row("page", value["url"])
    table.add_row("run it now", value["run"])
    console.print(table)


def servers(value: Mapping[str, str], console: Console) -> None:
    """The three addresses, and how to stop."""
    for name, address in value.items():
        console.print(f"[bold]{name:<8}[/] {address}", soft_wrap=True, highlight=False)
    console.print("[dim]latents run and latents deploy find them; Ctrl-C stops them[/]")


def copied(value: Mapping[str, Any], console: Console) -> None:
    """Where the features are now."""
    done = "was there already" if value["reused"] else f"{value['rows']:,} rows copied"
    console.print(f"{value['table']} in {value['database']}: {done}", highlight=False)
    console.print(f"[dim]publication {value['publication']}[/]")


def drift(value: Mapping[str, Any], console: Console) -> None:
    """What has moved: a line for each column, two for the model, and the verdict."""
    colors = {"stable": "green", "watch": "yellow", "drifted": "red"}
    table = Table("column", "", "PSI", "KS", "nulls", "why", box=None, padding=(0, 2, 0, 0))
    for row in sorted(value["columns"], key=lambda row: -row["distance"]):
        before, now = row["nulls_before"], row["nulls_now"]
        table.add_row(
            row["name"],
            f"[{colors[row['verdict']]}]{row['verdict']}[/]",
            f"{row['distance']:.3f}",
            "" if row["ks"] is None else f"{row['ks']:.3f}",
            f"{before:.1%} → {now:.1%}" if before or now else "",
            f"[dim]{row['why']}[/]",
        )
    console.print(table)
    for breach in value["breaches"]:
        console.print(f"[red]breach[/] {breach}", highlight=False)
    seen = value["model"]
    if seen is not None:
        marks = {True: "[red]drifted[/]", False: "[green]stable[/]"}
        before, now = seen["rows"]
        console.print(
            f"ELBO {seen['elbo_shift_nats']:+.2f} ± {seen['elbo_shift_nats_stderr']:.2f} nats, "
            f"KS {seen['elbo_ks']:.3f} [dim]({before:,} and {now:,} rows)[/]  "
            f"{marks[seen['elbo_drifted']]}"
        )
        k = seen["most_moved_latent"]
        console.print(
            f"latent {k} moved most: {seen['latent_shift'][k]:+.2f} ± "
            f"{seen['latent_shift_stderr'][k]:.2f} standard deviations, "
            f"KS {seen['latent_ks'][k]:.3f}  {marks[seen['latent_drifted']]}"
        )
    console.print(f"[bold]{value['verdict']}[/]")


def difference(value: Mapping[str, Any], console: Console) -> None:
    """How two publications differ."""
    table = _facts(
        f"[bold]{value['publications'][0]}[/] and [bold]{value['publications'][1]}[/]"
    )
    rows = value["rows"]
    table.add_row("rows", f"{rows[0]:,} and {rows[1]:,}")
    table.add_row("", f"{value['added']:,} added, {value['removed']:,} removed")
    table.add_row("", f"{value['changed']:,} changed")
    for name, largest in value["columns"].items():
        table.add_row(name, f"differs by {largest:.3g} at most")
    if value["only_in_one"]:
        table.add_row("only in one", ", ".join(value["only_in_one"]))
    console.print(table)


def cleared(value: Mapping[str, Any], console: Console) -> None:
    """What was removed."""
    console.print(f"{value['removed']} folders removed, {value['bytes']:,} bytes")


def drafted(value: Mapping[str, Any], console: Console) -> None:
    """The spec itself, to be kept in a file; or where it was written, and what to do next."""
    if value["spec"] is None:
        console.out(value["text"], end="", highlight=False)
    else:
        console.print(f"{value['spec']}: read it, then `latents run {value['spec']}`")
