"""The table `./run.sh` prints: `python -m test_data.table REPORT OUTPUT REFERENCE`."""

import json
import sys
from pathlib import Path

import numpy as np

from inference.ct import read_ct


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    """Dice similarity of two masks; two empty masks are equal (1)."""
    total = np.count_nonzero(predicted) + np.count_nonzero(true)
    return 2 * np.count_nonzero(predicted & true) / total if total else 1.0


def main(report: Path, output: Path, reference: Path) -> None:
    """One line a case: seconds, volumes, and the Dice of kidney ∪ tumor and of tumor."""
    print(f"{'case':<20}{'seconds':>9}{'kidney ml':>11}{'tumor ml':>10}{'kidney DSC':>12}{'tumor DSC':>11}")
    for case in json.loads(report.read_text())["cases"]:
        if case["status"] == "failed":
            print(f"{case['name']:<20}  failed: {case['error']}")
            continue
        predicted = read_ct(output / case["output"]).hu
        true = read_ct(reference / case["output"]).hu
        scores = f"{dice(predicted > 0, true > 0):>12.3f}{dice(predicted == 2, true == 2):>11.3f}"
        volumes = f"{case['kidney_ml']:>11.1f}{case['tumor_ml']:>10.1f}"
        print(f"{case['name']:<20}{sum(case['seconds'].values()):>9.1f}{volumes}{scores}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
