"""The servers that recvae's is compared with, on the same web stack: FastAPI, pydantic, uvicorn, httptools and uvloop.

python -m benchmarks.speed.serving.peers stack FOLDER PORT    answers with the bytes of FOLDER/answer.json
python -m benchmarks.speed.serving.peers als FOLDER PORT      ranks by implicit ALS of FOLDER/items.npz
"""

import sys
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, Response

from recvae.serving.schema import Model, Recommend, Recommendation, Recommended


def stack(folder: Path) -> FastAPI:
    """Return an application that reads a request and answers with bytes that are there already."""
    app, answer = _application(), (folder / "answer.json").read_bytes()

    @app.post("/v1/recommend")
    async def recommend(asked: Recommend) -> Response:
        return Response(answer, media_type="application/json")

    return app


def als(folder: Path) -> FastAPI:
    """Return an application that folds a user in and ranks all items, one request on one thread of the pool."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)  # implicit's own advice: a thread for each request is faster than threads in each
    app, found = _application(), np.load(folder / "items.npz")
    factors, titles = found["factors"], found["titles"].tolist()
    model = AlternatingLeastSquares(factors=factors.shape[1], regularization=10.0, alpha=10.0, num_threads=1)
    model.item_factors = factors
    n_items = len(factors)
    columns = {str(item): item for item in range(n_items)}
    warm = csr_matrix((np.ones(1, np.float32), ([0], [0])), shape=(1, n_items))
    model.recommend(0, warm, N=10, recalculate_user=True)  # computes the Gram matrix of the items, which is kept

    @app.post("/v1/recommend")
    def recommend(asked: Recommend) -> Recommended:
        known = sorted({columns[item] for item in asked.history if item in columns})
        history = csr_matrix((np.ones(len(known), np.float32), known, [0, len(known)]), shape=(1, n_items))
        ids, scores = model.recommend(0, history, N=asked.k, recalculate_user=True)
        rows = enumerate(zip(ids.tolist(), scores.tolist(), strict=True), start=1)
        return Recommended(
            items=[
                Recommendation(item=str(i), title=titles[i], tags=[], score=score, rank=rank, reasons=[])
                for rank, (i, score) in rows
            ],
            unknown=[item for item in asked.history if item not in columns],
            model=Model(name="als", version="1"),
        )

    return app


def _application() -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/health/ready")
    async def ready() -> Response:
        return Response()

    return app


if __name__ == "__main__":
    kind, where, port = sys.argv[1:]
    uvicorn.run(
        {"stack": stack, "als": als}[kind](Path(where)),
        host="127.0.0.1", port=int(port), http="httptools", loop="uvloop", log_level="warning", access_log=False,
    )  # fmt: skip
