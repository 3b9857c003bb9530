"""Every name inside circus, BentoML and uvloop that the supervisor leans on.

An upgrade that renames one fails here, with its name, and not in production.
"""

import inspect
import re
import select
import signal
import socket
import warnings
from types import SimpleNamespace

import circus.arbiter  # type: ignore[import-untyped]
import circus.controller  # type: ignore[import-untyped]
import circus.process  # type: ignore[import-untyped]
import circus.watcher  # type: ignore[import-untyped]
import pytest
import uvloop
from circus.exc import ConflictError  # type: ignore[import-untyped]
from circus.sighandler import SysHandler  # type: ignore[import-untyped]
from circus.util import synchronized  # type: ignore[import-untyped]

with warnings.catch_warnings():  # BentoML's own imports warn
    warnings.simplefilter("ignore")
    import bentoml._internal.log
    import bentoml.serving
    import prometheus_client.metrics
    from _bentoml_impl.server import app, serving  # type: ignore[import-untyped]
    from _bentoml_impl.worker.service import main  # type: ignore[import-untyped]
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.utils.circus import Arbiter

    from service.workers.board import create_board
    from service.workers.supervisor import API_SOCKET, Supervisor, install


def test_arbiter_is_started_through_this_method() -> None:
    source = inspect.getsource(serving.serve_http)
    assert source.index("server_on_deployment(svc)") < source.index("create_standalone_arbiter(**")
    assert "arbiter.start(" in source
    assert list(inspect.signature(Arbiter.start).parameters) == ["self", "cb"]
    assert f'"{API_SOCKET}"' in inspect.getsource(serving)


def test_hook_of_the_deployment_is_called_without_arguments() -> None:
    source = inspect.getsource(serving.server_on_deployment)
    assert "__bentoml_deployment_hook__" in source
    assert "member()" in source


def test_workers_inherit_descriptors_and_the_environment() -> None:
    source = inspect.getsource(bentoml.serving.create_watcher)
    for words in ("copy_env=True", "use_sockets", "respawn=not running_inside_container()"):
        assert words in source
    assert "close_fds=not self.use_fds" in inspect.getsource(circus.process.Process.spawn)


@pytest.mark.parametrize("name", ["manage_watchers", "reap_processes", "stop"])
def test_arbiter_method(name: str) -> None:
    assert list(inspect.signature(getattr(circus.arbiter.Arbiter, name)).parameters) == ["self"]


class Busy:
    """What circus' arbiter is while it replaces workers."""

    loop = SimpleNamespace(asyncio_loop=None)
    watchers = ()
    _restarting = False
    _exclusive_running_command: str | None = "manage_watchers"

    def __init__(self, listener: socket.socket) -> None:
        self.sockets = {API_SOCKET: listener}

    @synchronized("manage_watchers")  # type: ignore[untyped-decorator]
    def manage_watchers(self) -> bool:
        return True


def test_check_that_comes_while_workers_are_replaced_is_passed_over() -> None:
    """circus' timer calls it by this name, and would log what it throws."""
    source = inspect.getsource(circus.controller.Controller.start)
    assert "AsyncPeriodicCallback(self.arbiter.manage_watchers," in source
    source = inspect.getsource(circus.arbiter.Arbiter)
    assert '@synchronized("manage_watchers")\n    @gen.coroutine\n    def manage_w' in source
    with socket.socket() as listener:
        arbiter = Busy(listener)
        with pytest.raises(ConflictError):
            arbiter.manage_watchers()
        Supervisor(arbiter, create_board(1), 1.0)
        passed_over = arbiter.manage_watchers()
        assert passed_over is None
        arbiter._exclusive_running_command = None
        assert arbiter.manage_watchers()


@pytest.mark.parametrize("name", ["graceful_timeout", "hooks", "env", "processes", "respawn"])
def test_watcher_attribute(name: str) -> None:
    assert f"self.{name} = " in inspect.getsource(circus.watcher.Watcher.__init__)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("spawn_process", "self.call_hook('before_spawn')"),
        ("spawn_process", "self.call_hook('after_spawn', pid=process.pid)"),
        ("reap_process", 'self.call_hook("after_reap", process_status=process_status, **msg)'),
        ("manage_processes", "if self.respawn:"),
    ],
)
def test_watcher_calls_the_hooks(method: str, call: str) -> None:
    assert call in inspect.getsource(getattr(circus.watcher.Watcher, method))


def test_uvloop_shows_its_epoll_instance() -> None:
    """And a socket that it listens on is registered there under its own descriptor."""
    loop = uvloop.new_event_loop()
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            server = loop.run_until_complete(loop.create_server(lambda: None, sock=listener))  # type: ignore[arg-type,return-value]
            loop.call_later(0.01, loop.stop)
            loop.run_forever()
            poll = select.epoll.fromfd(loop._get_backend_id())  # type: ignore[attr-defined]
            poll.modify(listener.fileno(), 0)
            poll.modify(listener.fileno(), select.EPOLLIN)
            server.close()
    finally:
        loop.close()


def test_signals_to_stop_are_not_kept_before_there_is_a_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They end the process: circus would refuse them later, being busy with the start."""
    asked = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(Arbiter, "start", Arbiter.start)
    monkeypatch.setattr(SysHandler, "_register", SysHandler._register)
    install(1, 5.0)
    SysHandler(None)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == asked


def test_proxy_is_for_services_that_are_another_program() -> None:
    """``left_out`` leaves it out."""
    source = inspect.getsource(app)
    assert source.count("create_proxy_app") == 2
    assert "if self.service.has_custom_command():" in source
    assert "create_proxy_app(self.service)" in source


def test_worker_is_started_by_what_is_forked_instead() -> None:
    """What ``forked`` calls, and every name that it replaces."""
    words = '"-m",\n            _SERVICE_WORKER_SCRIPT,\n            bento_identifier,'
    assert words in inspect.getsource(serving.serve_http)
    assert main.callback.__module__ == serving._SERVICE_WORKER_SCRIPT
    assert "import configure_server_logging\n" in inspect.getsource(main.callback)
    assert isinstance(circus.watcher.Watcher._process_class, property | type)
    assert "self._process_class" in inspect.getsource(circus.watcher.Watcher.spawn_process)
    assert "self._worker = Popen(" in inspect.getsource(circus.process.Process.spawn)
    assert "values.ValueClass(" in inspect.getsource(prometheus_client.metrics)
    assert callable(bentoml._internal.log._component_name.cache_clear)


def test_client_of_itself_is_all_that_a_worker_makes_of_the_client() -> None:
    """What ``left_out`` has in its place, name by name."""
    source = inspect.getsource(app)
    assert {*re.findall(r"from \.\.client import (\w+)", source)} == {"RemoteProxy"}
    assert {*re.findall(r"\bproxy\.(\w+)", source)} == {"__aenter__", "to_async", "to_sync"}
    assert "await own_proxy.close()" in source


def test_folder_of_metrics_is_ours_to_choose() -> None:
    """BentoML empties the one that its container names, and passes it on by the variable."""
    source = inspect.getsource(serving.serve_http)
    assert '{"PROMETHEUS_MULTIPROC_DIR": ensure_prometheus_dir()}' in source
    source = inspect.getsource(bentoml.serving)
    assert "directory: str = Provide[BentoMLContainer.prometheus_multiproc_dir]" in source
    assert callable(BentoMLContainer.prometheus_multiproc_dir.set)
    assert str(BentoMLContainer.bentoml_home.get())
