/* models.S - the models of a program without files: -DBUNDLE="path". SPDX-License-Identifier: MIT */
    .section .models, "a"
    .balign 64
    .globl cross_models, cross_models_end
cross_models:
    .incbin BUNDLE
cross_models_end:
