"""The table `./run.sh` prints: `python -m test_data.table REPORT OUTPUT REFERENCE`."""

import json
import sys
from pathlib import Path

from evaluation.metrics import score_kits19
from inference.formats.ct import read_ct


def main(report: Path, output: Path, reference: Path) -> None:
    """One line a case: seconds, volumes, and the Dice of kidney ∪ tumor and of tumor."""
    print(f"{'case':<20}{'seconds':>9}{'kidney ml':>11}{'tumor ml':>10}{'kidney DSC':>12}{'tumor DSC':>11}")
    for case in json.loads(report.read_text())["cases"]:
        if case["status"] == "failed":
            print(f"{case['name']:<20}  failed: {case['error']}")
            continue
        predicted = read_ct(output / case["output"]).hu
        true = read_ct(reference / case["output"]).hu
        times = f"{sum(case['seconds'].values()):>9.1f}"
        volumes = f"{case['kidney_ml']:>11.1f}{case['tumor_ml']:>10.1f}"
        scores = score_kits19(predicted, true)
        print(f"{case['name']:<20}{times}{volumes}{scores['kidney']:>12.3f}{scores['tumor']:>11.3f}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
