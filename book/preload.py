"""Import what kernels need, once, in the process whose forks they are: see `kernels`."""
# ruff: noqa: F401

import gc

import ipykernel.kernelapp
import matplotlib.pyplot
import peft
import plotly.graph_objects
import scipy.stats
import sklearn.linear_model
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import selfimprove.comparison
import selfimprove.report
import selfimprove.rounds

get_checkpoint_conversion_mapping("clip")  # the first call makes all mappings, which takes most of a second
gc.freeze()  # what is imported stays, and rounds, which collect garbage often, need not look through it each time
