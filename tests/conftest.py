"""What holds for all suites."""

import os

import pytest

# Characters of what a test failed of.
_LONGEST = 2_000

# With these pytest explains a failed comparison in full, and for two blobs of 65531 bytes that takes for ever.
for _name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(_name, None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Last of all what failed and where: above it may be 30 MB of what the nodes logged."""
    for report in (*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")):
        terminalreporter.write_line(f"\n{report.nodeid} ({report.when})")
        traceback = getattr(report.longrepr, "reprtraceback", None)
        for entry in traceback.reprentries if traceback else ():
            if place := getattr(entry, "reprfileloc", None):
                terminalreporter.write_line(f"  {place.path}:{place.lineno}: {place.message}")
        crash = getattr(report.longrepr, "reprcrash", None)
        terminalreporter.write_line(crash.message[:_LONGEST] if crash else str(report.longrepr)[-_LONGEST:])
