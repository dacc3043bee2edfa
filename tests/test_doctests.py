"""Every example in a docstring is run."""

import ast
import doctest
import importlib.util
import pkgutil

import pytest

import ravine


def examples():
    """(module, name, docstring, line) of each docstring with an example.

    Read from the source: decorated functions would hide their docstrings from `doctest.DocTestFinder`.
    """
    found = []
    for module in ("ravine", *(info.name for info in pkgutil.walk_packages(ravine.__path__, "ravine."))):
        spec = importlib.util.find_spec(module)
        with open(spec.origin, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                if text and ">>>" in text:
                    found.append((module, getattr(node, "name", ""), text, getattr(node, "lineno", 0)))
    return found


@pytest.mark.parametrize("module,name,text,line", [pytest.param(*one, id=f"{one[0]}.{one[1]}") for one in examples()])
def test_example(module, name, text, line, unchecked):
    test = doctest.DocTestParser().get_doctest(text, {}, f"{module}.{name}", module, line)
    heard = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=heard.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(heard)


def test_public_names_exist():
    assert len(ravine.__all__) > 60
    for name in ravine.__all__:
        assert getattr(ravine, name) is not None
