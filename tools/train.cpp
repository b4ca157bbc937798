// train.cpp - `ssm train`: trains a small model on this CPU.
// SPDX-License-Identifier: MIT
//
// Where to read on: train_run.hpp (the loop), train_task.hpp (what is learned), train_settings.hpp (the keys of a
// configuration), s4d_net.hpp (the network and its gradients); for state tracking with Mamba-3 train_tracking.hpp and
// mamba3_net.hpp.

#include "train_run.hpp"
#include "train_tracking.hpp"

int verb_train(int argc, char** argv);
int verb_train(int argc, char** argv) {
    train::OtherRunner other;
    other.takes = tracking::takes, other.verb = tracking::verb;
    return train::verb(argc, argv, other);
}
