"""`python -m pruning list`: methods, head scores and models."""

from __future__ import annotations

import argparse
import json

from pruning.catalogue import (
    list_compensators,
    list_methods,
    list_models,
    list_scores,
)


def print_list(arguments: argparse.Namespace) -> int:
    methods, scores, models = list_methods(), list_scores(), list_models()
    if arguments.json:
        lists = {"methods": methods, "scores": scores, "models": models, "compensators": list_compensators()}
        print(json.dumps(lists, indent=1))
        return 0
    for m in methods + scores:
        print(f"{m['key']:16} {m['title']}: {m['idea']}  ({m['paper']})")
        for p in m["parameters"]:
            allowed = " | ".join(p["options"]) if "options" in p else f"{p['low']:g} .. {p['high']:g}"
            print(f"{'':18}{p['name']} = {p['default']}  [{allowed}]  {p['help']}")
    print()
    for c in list_compensators():
        print(f"{c['key']:16} {c['title']}: {c['idea']}  ({c['paper']})")
    print()
    for s in models:
        disk = f"{s['disk']} to download, " if s["disk"] else ""
        print(f"{s['key']:22} {s['title']}: {s['parameters']} parameters, {disk}memory: {s['memory']}  ({s['source']})")
        print(f"{'':24}licence: {s['licence']}{'  (checked: ' + s['checked'] + ')' if s['checked'] else ''}")
    return 0
