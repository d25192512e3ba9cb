from data_prep import Dataset as Dataset
from data_prep import prepare as prepare
from eval import evaluate as evaluate
from eval import validator as validator
from recvae.baselines.als import ImplicitALS as ImplicitALS
from recvae.baselines.ease import EASE as EASE
from recvae.baselines.edlae import EDLAE as EDLAE
from recvae.baselines.item_knn import ItemKNN as ItemKNN
from recvae.baselines.popularity import Popularity as Popularity
from recvae.errors import RecvaeError as RecvaeError
from recvae.models.blend import Blend as Blend
from recvae.models.conditional import ConditionalVAE as ConditionalVAE
from recvae.models.mult import MultDAE as MultDAE
from recvae.models.mult import MultVAE as MultVAE
from recvae.models.recvae import RecVAE as RecVAE
from recvae.models.recvae_edlae import RecVAEEDLAE as RecVAEEDLAE
from recvae.models.vaeac import VAEAC as VAEAC
from recvae.models.vamp import VampVAE as VampVAE
from recvae.queries import Answer as Answer
from recvae.queries import Query as Query
from recvae.recommender import Recommender as Recommender
from recvae.recommender import load as load
from recvae.registry import register as register
from recvae.serving.lists.walk import write_lists as write_lists

__version__: str
__all__: list[str]
