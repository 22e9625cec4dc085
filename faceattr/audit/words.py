"""What every report says beside its numbers: method, limits, law."""

from __future__ import annotations

QUESTIONS = {
    "collection": "The corrected shares say what these faces are; their intervals hold the "
    "classifier's errors. A counted share is what the classifier answered, and has no interval.",
    "population": "The shares say what the population is that these images were drawn from at "
    "random; their intervals hold the chance of the draw as well as the classifier's errors.",
}

METHOD = (
    "Each image is decoded, its faces are found, cut out as FairFace's training chips are, and "
    "classified. A face counts for the class with the highest probability; unsure answers count "
    "too.",
    "Counted shares are biased, because a classifier takes one class for another more often than "
    "the other way round. The corrected shares undo this with the answers that the same weights "
    "gave for labelled faces they were not trained on: by the matrix of these answers, or by "
    "maximum likelihood (Saerens and others, 2002). Intervals come from resampling the images, "
    "faces of one image together, and the labelled faces.",
    "The correction assumes that faces of a class look to the classifier as they do in FairFace. A "
    "test says whether the answers can be a mixture of FairFace's classes at all; where not, only "
    "labels by hand help (--label-sample, --labels): prediction-powered estimates assume nothing "
    "about FairFace.",
)

LIMITS = (
    "Labels are what FairFace's annotators perceived. They are not anybody's gender identity, date "
    "of birth, ancestry or nationality. Two genders and seven groups leave people out.",
    "Shares are of faces, not of people: one person in ten images counts ten times.",
    "Faces that are small, turned away or covered are found less often. Who is missed is in no "
    "share.",
    "A share says nothing about one face. Do not pick out people by their answers.",
    "An interval of 95 % misses the true share in one of twenty cases, and of many intervals some "
    "miss.",
)

LAW = (
    "Describing a collection in sum is what this tool is for. In the European Union the AI Act "
    "(Regulation 2024/1689, Article 5(1)(g)) forbids biometric categorisation systems that "
    "categorise individual people to deduce or infer their race, with an exception for labelling "
    "or filtering lawfully acquired data sets. The General Data Protection Regulation covers "
    "images of people; perceived race is among the special categories of Article 9. Check your "
    "ground for processing before you start, keep the tables of faces only as long as you need "
    "them, and publish sums.",
    "This is no legal advice.",
)
