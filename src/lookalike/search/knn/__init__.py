"""The k nearest neighbours of many queries, on Spark.

Rows travel once. A sample says into which regions they are divided: groups of near cells, each for
the memory of one task. A row is sent to the region that holds its cell, and as a query to the other
regions that hold cells near it. A task holds the rows of a region, and the queries pass by. The k
best of each region are merged. Nothing is collected, and no machine holds all rows. Exact search
takes the same way: every query visits every group of rows.

The shape is that of LANNS (Doshi et al., 2020, https://arxiv.org/abs/2010.09426) and SPANN (Chen et
al., 2021, https://arxiv.org/abs/2111.08566).
"""

from lookalike.search.knn.join import JoinPlan, plan_join
from lookalike.search.knn.partitions import Partition
from lookalike.search.knn.sources import FrameRows, IndexRows

__all__ = ["FrameRows", "IndexRows", "JoinPlan", "Partition", "plan_join"]
