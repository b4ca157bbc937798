// sound.hpp - recordings with labels, and the bank of resonators in front of a model of sound.
// SPDX-License-Identifier: MIT
//
// Data: a folder with NAME.i16, the samples of all recordings one after the other (16 bits, little-endian), and
// NAME.tsv, a line of column names and then a line a recording: `label speaker index offset length`, the last two in
// samples.

#ifndef SOUND_HPP
#define SOUND_HPP

#include <cstdint>
#include <string>
#include <vector>

namespace sound {

struct Recording {
    int         label = 0, index = 0;
    std::string speaker;
    size_t      offset = 0, length = 0;
};
struct Recordings {
    std::vector<int16_t>   samples;
    std::vector<Recording> list;
};
// Adds FOLDER/NAME.i16 and .tsv to `to`. False: one line in `error`.
bool read_recordings(const std::string& folder, const std::string& name, Recordings* to, std::string* error);

// Resonators evenly spaced on the mel scale, mel(f) = 2595 log10(1 + f / 700), and what is done with their powers; see
// BankQ in ssm.hpp for the arithmetic.
struct Geometry {
    int    bands = 20, samples = 64; // a step
    double rate = 8000;              // samples a second
    double low = 120, high = 3600;   // Hz, the first and the last
    double width = 100, part = 0.2;  // bandwidth: the larger of width (Hz) and part of the frequency
    double memory = 0.016;           // s, of the mean power
    double mean = 0.02;              // share of a step in the mean that is subtracted
    double floor = 50;               // dB below the peak that count
    double fall = 7.5;               // dB a second that the peak falls
    double gate = 27;                // dB below the peak and
    double quiet = 66;               // below full scale, where there is nothing to learn from
    double forget = 24;              // dB the peak rises that make the mean what is usual
};
// As the model's file has it. `warp` multiplies all frequencies and bandwidths, for training.
struct Bank {
    int bands = 0, samples = 0, shift = 0, leak = 0, mean = 0, floor = 0, fall = 0, gate = 0, quiet = 0, forget = 0;
    std::vector<int32_t> poles, full, prior; // [bands][re im] Q31, [bands] Q16; prior is 0 until it is measured
};
Bank make_bank(const Geometry& g, double warp = 1);

// The features [n / samples][bands] of n samples in Q16, as the header computes them; n is a multiple of `samples`.
// `shift`, if given, is added to each band's logarithm (Q16): an equaliser.
// `heard`, if given, adds the levels d_k of steps in which there was something to hear, and their number behind them.
void features(const Bank& b, const int32_t* x, int64_t n, const int32_t* shift, float* out, double* heard = nullptr);

} // namespace sound

#endif
