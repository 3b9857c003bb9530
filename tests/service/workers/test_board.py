"""What workers write is read by their supervisor, and a dead worker leaves nothing behind."""

import os

from service.workers.board import NOBODY, Board, create_board


def test_two_views_of_one_memory() -> None:
    descriptor = create_board(4)
    mine, theirs = Board(descriptor), Board(descriptor)
    assert len(theirs) == 4
    assert list(theirs.connections) == [NOBODY] * 4
    mine.enter(2)
    mine.connections[2] = 7
    assert list(theirs.pids) == [0, 0, os.getpid(), 0]
    assert theirs.loading[2] == 1
    assert theirs.ready[2] == 0
    assert min(theirs.connections) == 7
    os.close(descriptor)


def test_clear_says_whether_it_was_ready() -> None:
    descriptor = create_board(2)
    board = Board(descriptor)
    board.enter(0)
    assert not board.clear(os.getpid())
    board.enter(0)
    board.ready[0] = 1
    board.connections[0] = 3
    assert board.clear(os.getpid())
    assert list(board.pids) == [0, 0]
    assert list(board.connections) == [NOBODY, NOBODY]
    assert not board.clear(os.getpid())
    os.close(descriptor)
