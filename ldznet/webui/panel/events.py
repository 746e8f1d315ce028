"""Wire the panel's events by name: functions get values by name and return new values by name.

Gradio passes the inputs of an event by position unless they are a set: then a function gets {component: value},
and it may always answer with {component: value}. `Events` turns components into names, so that no function depends
on a number of positions. JavaScript gets its inputs by position all the same; `order` says in which.

Works with the versions of gradio in webui/page/gradio_versions.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]

from ldznet.webui.page.gradio_versions import script_argument

Values = Mapping[str, Any]
# New values by the names of components; a component without one stays as it is.
Answer = dict[str, Any]


class Events:
    """Events between components that have names."""

    def __init__(self, components: Mapping[str, Any]) -> None:
        self._components = dict(components)
        self._names = {component: name for name, component in components.items()}

    def on(
        self,
        trigger: str,
        act: Callable[..., Answer] | None,
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        *,
        script: Callable[[list[str]], str | None] | None = None,
        **options: Any,
    ) -> Any:
        """Call `act`, or `script` alone, when something happens to a component; return gradio's event.

        `trigger` is such as "segment.click". `act` gets the values of `inputs`. `script` gets the names of the
        inputs in order, and returns JavaScript that runs before `act`.
        """
        name, _, event = trigger.partition(".")
        function = None if act is None else self._by_name(act, outputs)
        listen = getattr(self._components[name], event)
        return self._wire(listen, function, inputs, outputs, script, options)

    def then(
        self,
        event: Any,
        act: Callable[..., Answer] | None,
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        *,
        script: Callable[[list[str]], str | None] | None = None,
        **options: Any,
    ) -> Any:
        """Call `act`, or `script` alone, when an earlier event is done; return gradio's event."""
        function = None if act is None else self._by_name(act, outputs)
        return self._wire(event.then, function, inputs, outputs, script, options)

    def on_load(
        self,
        blocks: Any,
        act: Callable[..., Answer],
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        **options: Any,
    ) -> None:
        """Call `act` whenever somebody opens the page."""
        self._wire(blocks.load, self._by_name(act, outputs), inputs, outputs, None, options)

    def order(self, inputs: Iterable[str]) -> list[str]:
        """Return the names of inputs in the order in which JavaScript gets their values.

        Gradio sorts a set of inputs by the number that each component got when it was made.
        """
        return sorted(set(inputs), key=lambda name: self._components[name]._id)

    def _wire(
        self,
        listen: Callable[..., Any],
        function: Callable[..., Any] | None,
        inputs: Iterable[str],
        outputs: Iterable[str],
        script: Callable[[list[str]], str | None] | None,
        options: dict[str, Any],
    ) -> Any:
        inputs = set(inputs)  # a set, even an empty one, makes gradio pass one dict
        if script is not None and (code := script(self.order(inputs))):
            options[script_argument()] = code
        parts = {self._components[name] for name in inputs}
        return listen(function, inputs=parts, outputs=self._all(outputs), **options)

    def _all(self, names: Iterable[str]) -> list[Any]:
        return [self._components[name] for name in names]

    def _by_name(self, act: Callable[..., Answer], outputs: Iterable[str]) -> Callable[..., Any]:
        def call(values: dict[Any, Any]) -> Any:
            return self._by_component(act(self._named(values)), outputs)

        call.__name__ = getattr(act, "func", act).__name__  # in gradio's own errors; of a partial, its function's
        return call

    def _named(self, values: dict[Any, Any]) -> Values:
        return {self._names[component]: value for component, value in values.items()}

    def _by_component(self, answer: Answer, outputs: Iterable[str]) -> Any:
        if not answer:  # gradio would take an empty dict for a value
            answer = {name: gr.update() for name in outputs}
        return {self._components[name]: value for name, value in answer.items()}
