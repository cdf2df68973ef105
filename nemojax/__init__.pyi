"""What `import nemojax` offers, for type checkers and editors."""

from nemojax import losses as losses
from nemojax import models as models
from nemojax.api import train as train
from nemojax.api.plan import plan as plan
from nemojax.api.use import convert as convert
from nemojax.api.use import generate as generate
from nemojax.api.use import load as load
from nemojax.api.use import score as score
from nemojax.data.records import AttributeLabels as AttributeLabels
from nemojax.data.records import Conversation as Conversation
from nemojax.data.records import PreferencePair as PreferencePair
from nemojax.errors import UserError as UserError
from nemojax.models.lora import LoraConfig as LoraConfig
from nemojax.parallel.layout import LayoutSpec as LayoutSpec

__version__: str
