"""What replicas tell each other by files: who decides, and what each has counted."""

from pathlib import Path

from models.promotion import Limits, Promotion, new_promotion
from service.rollout.exchange import Lease, clean, publish, total


def promotion_of() -> Promotion:
    return new_promotion(
        2,
        1,
        Limits(max_flips=0.01),
        first_share=0.1,
        shadow=1,
        within_s=60,
        step_s=1,
        now_s=0,
    )


def test_one_holds_the_lease_and_another_takes_it_when_it_is_not_renewed(tmp_path: Path) -> None:
    now_s = [0.0]
    one, two = (Lease(tmp_path, who, 10, lambda: now_s[0]) for who in ("one", "two"))
    assert one.hold() and one.hold() and not two.hold()
    for now_s[0] in (6.0, 12.0, 18.0):  # renewed: what two saw changes each time
        assert one.hold() and not two.hold()
    now_s[0] = 27.9
    assert not two.hold()
    now_s[0] = 28.1
    assert two.hold() and not one.hold(), "who was away finds it taken"


def test_a_lease_that_is_given_up_or_damaged_is_free(tmp_path: Path) -> None:
    one, two = Lease(tmp_path, "one"), Lease(tmp_path, "two")
    assert one.hold()
    two.release()
    assert not two.hold(), "only who holds it gives it up"
    one.release()
    assert two.hold()
    (tmp_path / ".promotions/.lease.json").write_text("{")
    assert one.hold()


def test_counts_are_those_since_the_promotion_began_of_all_replicas(tmp_path: Path) -> None:
    promotion = promotion_of()
    assert total(tmp_path, "tiny", promotion) == {}
    publish(tmp_path, "tiny", promotion, "a", {"agreed": 100, "differed": 1})
    assert set(total(tmp_path, "tiny", promotion).values()) <= {0}
    publish(tmp_path, "tiny", promotion, "a", {"agreed": 150, "differed": 3, "slow": 1})
    publish(tmp_path, "tiny", promotion, "b", {})
    publish(tmp_path, "tiny", promotion, "b", {"agreed": 7})
    expected = {"agreed": 57, "differed": 2, "slow": 1}
    assert total(tmp_path, "tiny", promotion) == expected
    # A service that is started again counts from 0, under another name.
    publish(tmp_path, "tiny", promotion, "a2", {})
    publish(tmp_path, "tiny", promotion, "a2", {"agreed": 3})
    assert total(tmp_path, "tiny", promotion) == expected | {"agreed": 60}
    assert total(tmp_path, "tiny", promotion_of()) == {}, "another promotion begins with nothing"
    for damaged in (b"\0", b"[1]", b'{"now": 1}', b'{"now": {"agreed": "9"}}'):
        (tmp_path / ".promotions/tiny" / promotion.id / "b.json").write_bytes(damaged)
        assert total(tmp_path, "tiny", promotion)["agreed"] == 53, "a damaged file is no evidence"


def test_counts_of_past_promotions_go(tmp_path: Path) -> None:
    past, present = promotion_of(), promotion_of()
    for promotion in (past, present):
        publish(tmp_path, "tiny", promotion, "a", {})
        publish(tmp_path, "tiny", promotion, "a", {"agreed": 1})
    clean(tmp_path, "tiny", present)
    assert not total(tmp_path, "tiny", past) and total(tmp_path, "tiny", present)
    clean(tmp_path, "tiny")
    assert not (tmp_path / ".promotions/tiny").exists()
    clean(tmp_path, "tiny")
