"""Every public name of `lepton` is there at the first touch, whichever was touched before."""

import subprocess
import sys

# Each name is looked up in a package that nobody has touched; the contract's stubs register once a process.
_LOOK_UP = """
import importlib, sys
import lepton
names = dir(lepton)
assert set(lepton.__all__) <= set(names), names
assert {'steps', 'errors', 'jobs', 'images', 'studies'} <= set(names), names
for name in names:
    for module in [module for module in sys.modules if module.startswith('lepton') and '.v1' not in module]:
        del sys.modules[module]
    fresh = importlib.import_module('lepton')
    assert getattr(fresh, name) is not None, name
try:
    lepton.nothing
except AttributeError as error:
    assert "'nothing'" in str(error)
else:
    raise AssertionError('found')
assert lepton.cli and lepton.column_values
import leptonai
assert leptonai.models.MLP and leptonai.utils.load_data
print(len(names))
"""


def test_each_name_is_found_at_first_touch() -> None:
    ran = subprocess.run([sys.executable, "-c", _LOOK_UP], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert int(ran.stdout) > 30
