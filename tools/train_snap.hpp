// train_snap.hpp - makes the turns of a trained Mamba-3 layer exact, so that what it tracks does not drift.
// SPDX-License-Identifier: MIT
//
// A linear recurrence corrects no errors: a turn that is off by a millionth, or a decay by as much, adds up over a long
// stream. A model of one layer that reads tokens sees one vector a token, so each number of a head is a constant of the
// token, and a row of in_proj can be changed by the least amount (in the Euclidean norm) that puts the constant of
// every token where it should be. A head that turns by about half a turn at a token shall turn by exactly that:
//
//     tanh(angle) = 1 or -1 and dt = 1, both exactly in float;   lambda = 1: nothing of the token before is added
//
// and where it does not turn at all, the token shall take no time (dt = 0 to all purposes), so that it neither turns,
// decays nor adds. A is 0. The state of such a head takes finitely many values, for ever.

#ifndef TRAIN_SNAP_HPP
#define TRAIN_SNAP_HPP

#include "mamba3_net.hpp"

namespace tracking {

// Inputs of softplus, sigmoid and tanh that are beyond what float can tell from their limits; e^-40 = 4e-18.
constexpr double snap_off = -40, snap_lambda = 25, snap_angle = 20;
constexpr double snap_step = 0.5413248546129181; // softplus of it is 1: log(e - 1)

// What the snapped model does at a token. `turns`: in half turns, -1, 0 or 1.
struct Snapped {
    std::vector<int>  turns; // [token][head][angle], as trained and rounded
    std::vector<bool> moves; // [token][head]: any of them is not 0
};

// Solves G x = y in place, G [n][n] positive definite. False if it is not, to rounding.
inline bool solve(std::vector<double> G, std::vector<double>& y) {
    const size_t n = y.size();
    for (size_t i = 0; i < n; ++i) {
        if (!(G[i * n + i] > 1e-9)) return false;
        for (size_t k = i + 1; k < n; ++k) {
            const double part = G[k * n + i] / G[i * n + i];
            for (size_t j = i; j < n; ++j) G[k * n + j] -= part * G[i * n + j];
            y[k] -= part * y[i];
        }
    }
    for (size_t i = n; i-- > 0;) {
        for (size_t j = i + 1; j < n; ++j) y[i] -= G[i * n + j] * y[j];
        y[i] /= G[i * n + i];
    }
    return true;
}

// Snaps the only layer of `net`. False and why in `error` if it is not of that kind.
inline bool snap(mamba3::Net<float>& net, Snapped* done, std::string* error) {
    const mamba3::Config& c = net.config;
    if (c.n_layers != 1 || c.vocab < 1 || c.vocab > c.d_model || !c.softplus_A)
        return *error = "snap needs one layer, a softplus A and no more tokens than d_model", false;
    const size_t d = size_t(c.d_model), V = size_t(c.vocab), H = size_t(c.heads()), S = size_t(c.rope_angles);
    float*       w = net.params.data();
    const auto&  at = net.layers[0];

    // 1. What in_proj reads at each token, and the products of these vectors.
    std::vector<double> u(V * d), G(V * V);
    for (size_t v = 0; v < V; ++v) {
        std::vector<double> x(d), weight(d);
        for (size_t i = 0; i < d; ++i)
            x[i] = double(w[size_t(net.embedding) + v * d + i]), weight[i] = double(w[size_t(at.norm) + i]);
        mamba3::rms(x.data(), weight.data(), &u[v * d], int(d));
    }
    for (size_t v = 0; v < V; ++v)
        for (size_t k = 0; k < V; ++k)
            for (size_t i = 0; i < d; ++i) G[v * V + k] += u[v * d + i] * u[k * d + i];

    // 2. Its last rows: dt, A, trap of each head, then the angles.
    float* const rows = w + at.in_proj + int64_t(size_t(c.rows()) - 3 * H - S) * c.d_model;
    const auto   value = [&](size_t row, size_t v) {
        double sum = 0;
        for (size_t i = 0; i < d; ++i) sum += double(rows[row * d + i]) * u[v * d + i];
        return sum;
    };
    // Changes a row by the least amount that gives it `wanted` [V].
    const auto put = [&](size_t row, std::vector<double> wanted) {
        for (size_t v = 0; v < V; ++v) wanted[v] -= value(row, v);
        if (!solve(G, wanted)) return false;
        for (size_t i = 0; i < d; ++i) {
            double sum = double(rows[row * d + i]);
            for (size_t v = 0; v < V; ++v) sum += wanted[v] * u[v * d + i];
            rows[row * d + i] = float(sum);
        }
        return true;
    };

    // 3. The turns as trained, rounded.
    done->turns.assign(V * H * S, 0), done->moves.assign(V * H, false);
    for (size_t v = 0; v < V; ++v)
        for (size_t h = 0; h < H; ++h) {
            const double dt = mamba3::softplus(value(h, v) + double(w[size_t(at.dt_bias) + h]));
            bool         moves = false;
            for (size_t s = 0; s < S; ++s) {
                const double k = std::round(std::tanh(value(3 * H + s, v)) * dt);
                done->turns[(v * H + h) * S + s] = int(k);
                if (std::fabs(k) > 1) return *error = "snap: a turn of more than half a turn", false;
                moves = moves || k != 0;
            }
            // A pair that stays where others of its head turn would add up without end: training has made it one that
            // B and C leave out, so it may turn with them.
            for (size_t s = 0; s < S && moves; ++s)
                if (int& k = done->turns[(v * H + h) * S + s]; k == 0) k = 1;
            done->moves[v * H + h] = moves;
        }

    // 4. The rows, so that these turns are exact.
    bool solved = true;
    for (size_t h = 0; h < H; ++h) {
        std::vector<double> dt(V), trap(V);
        for (size_t v = 0; v < V; ++v) {
            const bool moves = done->moves[v * H + h];
            dt[v] = moves ? snap_step : snap_off;
            trap[v] = moves ? snap_lambda : value(2 * H + h, v);
        }
        w[size_t(at.dt_bias) + h] = 0;
        solved = solved && put(h, dt) && put(H + h, std::vector<double>(V, snap_off)) && put(2 * H + h, trap);
    }
    for (size_t s = 0; s < S; ++s) {
        std::vector<double> angle(V);
        for (size_t v = 0; v < V; ++v) {
            angle[v] = value(3 * H + s, v);
            for (size_t h = 0; h < H; ++h)
                if (const int k = done->turns[(v * H + h) * S + s]; k != 0) angle[v] = k * snap_angle;
        }
        solved = solved && put(3 * H + s, angle);
    }
    if (!solved) return *error = "snap: tokens with like embeddings", false;
    net.config.A_floor = 0;
    return true;
}

} // namespace tracking

#endif
