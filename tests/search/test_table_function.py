"""An index in Spark SQL: its table as a view, its neighbours, and a table function."""

from typing import Any

import pytest

from lookalike import Index
from lookalike.images.synthetic import DrawnCollection
from lookalike.spark import session


def rows(query: str) -> list[Any]:
    return session().sql(query).collect()


def test_a_table_function_searches(index: Index, drawn: DrawnCollection) -> None:
    spark = session()
    index.register_function("alike", spark)
    photo = sorted(drawn.new.iterdir())[0]
    wanted = index.search(photo, k=3)
    found = rows(f"select * from alike(image => 'file:{photo}', k => 3)")
    assert [(row["rank"], row["id"], row["path"], row["label"]) for row in found] == [
        (one.rank, one.id, one.path, one.label) for one in wanted
    ]
    assert [row["distance"] for row in found] == pytest.approx([one.distance for one in wanted])
    index.to_spark().createOrReplaceTempView("photos")
    joined = rows(
        """select q.id, s.id as found, p.label
        from (select id from photos where id < 3 or id is null) q,
            lateral alike(id => q.id, k => 2, where => 'id <> 5') s
            join photos p on p.id = s.id
        order by q.id, s.rank"""
    )
    expected = [
        (id_, one.id, one.label)
        for id_ in range(3)
        for one in index.search(id=id_, k=2, where="id <> 5")
    ]
    assert [tuple(row) for row in joined] == expected
    assert rows("select * from alike(image => null)") == []
