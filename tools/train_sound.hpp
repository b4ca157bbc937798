// train_sound.hpp - the task "sound": which word is it? Learned from recordings, raw samples in.
// SPDX-License-Identifier: MIT
//
// Data: a folder with recordings, see sound.hpp; train.* are learned from. The bank of resonators is fixed; each epoch
// hears every recording anew: faster or slower, through warped resonators, an equaliser and echoes, louder or softer,
// with noise, and with silence around it. Options, with their defaults:
//
//     sound.hold     (none)  a speaker kept for validation, whose recordings of train.* and test.* are measured
//     sound.from     (none)  or: recordings of train.* with an index from here on are kept for validation
//     sound.bands 20 sound.samples 64 sound.rate 8000 sound.low 120 sound.high 3600 sound.width 100 sound.part 0.2
//     sound.memory 0.016 sound.mean 0.02 sound.floor 50 sound.fall 7.5 sound.gate 27 sound.quiet 66 sound.forget 24
//                            the bank, see sound::Geometry
//     sound.speed    0.2     duration divided by 1 - .. 1 + this       sound.warp   0.12  of the resonators
//     sound.equaliser 0.7    size of the bends of the spectrum, in nepers
//     sound.level    15      dB louder or softer at most               sound.echo   0     share with three echoes
//     sound.noise    0.3     share with noise, 8 to 40 dB below        sound.still  0.3   share with silence in front,
//     sound.silence  4000    up to so many samples                     sound.shift  300   samples around, but
//     sound.bare     0.4     share that begins at once
//     sound.bands_off 3      neighbouring bands silenced, at most      sound.frames_off 0 share of the steps, at most

#ifndef TRAIN_SOUND_HPP
#define TRAIN_SOUND_HPP

#include "sound.hpp"
#include "train_task.hpp"

namespace train {

struct SoundTask : Task {
    bool configure(const Settings& s, std::string* error) override {
        TaskOptions o{{{"sound.hold", ""}}};
        const struct {
            const char *name, *usual;
            double      low, high, *to;
        } numbers[] = {{"sound.rate", "8000", 1000, 96000, &geometry_.rate},
                       {"sound.low", "120", 1, 48000, &geometry_.low},
                       {"sound.high", "3600", 1, 48000, &geometry_.high},
                       {"sound.width", "100", 1, 48000, &geometry_.width},
                       {"sound.part", "0.2", 0, 1, &geometry_.part},
                       {"sound.memory", "0.016", 0.0001, 10, &geometry_.memory},
                       {"sound.mean", "0.02", 0, 1, &geometry_.mean},
                       {"sound.quiet", "66", 0, 190, &geometry_.quiet},
                       {"sound.forget", "24", 1, 190, &geometry_.forget},
                       {"sound.bare", "0.4", 0, 1, &bare_},
                       {"sound.floor", "50", 0, 190, &geometry_.floor},
                       {"sound.gate", "27", 0, 190, &geometry_.gate},
                       {"sound.fall", "7.5", 0, 1000, &geometry_.fall},
                       {"sound.bands", "20", 1, ssm::max_bands, &bands_},
                       {"sound.samples", "64", 4, ssm::max_frame, &samples_},
                       {"sound.speed", "0.2", 0, 0.9, &speed_},
                       {"sound.warp", "0.12", 0, 0.9, &warp_},
                       {"sound.equaliser", "0.7", 0, 10, &equaliser_},
                       {"sound.level", "15", 0, 60, &level_},
                       {"sound.echo", "0", 0, 1, &echo_},
                       {"sound.noise", "0.3", 0, 1, &noise_},
                       {"sound.still", "0.3", 0, 1, &still_},
                       {"sound.silence", "4000", 0, 1e6, &silence_},
                       {"sound.shift", "300", 0, 1e6, &shift_},
                       {"sound.bands_off", "3", 0, ssm::max_bands, &bands_off_},
                       {"sound.frames_off", "0", 0, 0.9, &frames_off_},
                       {"sound.from", "1e9", 0, 1e9, &from_}};
        for (const auto& n : numbers) o.values[n.name] = n.usual;
        if (!o.read(s, error)) return false;
        for (const auto& n : numbers)
            if (!o.number(n.name, n.low, n.high, n.to, error)) return false;
        hold_ = o.values["sound.hold"];
        geometry_.bands = int(bands_), geometry_.samples = int(samples_) / 4 * 4;
        if (geometry_.samples < geometry_.bands) return *error = "sound.samples: below the number of bands", false;
        if (s.net.pool == s4d::Pool::none) return *error = "task sound needs pool = mean or last", false;
        bank_ = sound::make_bank(geometry_);
        return true;
    }
    bool prepare(Settings& s, std::string* error) override {
        // 1. Recordings.
        if (!sound::read_recordings(s.data, "train", &data_, error)) return false;
        const size_t n = data_.list.size();
        if (!hold_.empty() && !sound::read_recordings(s.data, "test", &data_, error)) return false;
        int classes = 0;
        for (size_t i = 0; i < data_.list.size(); ++i) {
            const sound::Recording& r = data_.list[i];
            classes = std::max(classes, r.label + 1);
            const bool keep = !hold_.empty() ? r.speaker == hold_ : r.index >= from_;
            if (keep) held_.push_back(i);
            else if (i < n) used_.push_back(i);
        }
        if (!hold_.empty() && held_.empty()) return *error = "sound.hold: no recording by " + shown(hold_), false;
        s.net.d_input = geometry_.bands, s.net.d_output = classes;
        for (int k = 0; k < classes; ++k) labels += (k > 0 ? "," : "") + std::to_string(k);
        // 2. How far bands are below the peak, as usual.
        std::vector<double> heard(size_t(bank_.bands) + 1, 0.0);
        std::vector<float>  ignored;
        for (size_t i : used_) {
            std::vector<int32_t> x = plain(data_.list[i]);
            const auto           steps = size_t(pad(&x));
            ignored.resize(steps * size_t(bank_.bands));
            sound::features(bank_, x.data(), int64_t(x.size()), nullptr, ignored.data(), heard.data());
        }
        if (heard.back() <= 0) return *error = shown(s.data) + ": holds nothing that can be heard", false;
        for (size_t k = 0; k < bank_.prior.size(); ++k) bank_.prior[k] = int32_t(std::lround(heard[k] / heard.back()));
        // 3. What the model's file says.
        input = "samples";
        metadata = {{"d_input", std::to_string(bank_.samples)},  {"sample_rate", std::to_string(int(geometry_.rate))},
                    {"band_shift", std::to_string(bank_.shift)}, {"band_leak", std::to_string(bank_.leak)},
                    {"band_mean", std::to_string(bank_.mean)},   {"band_floor", std::to_string(bank_.floor)},
                    {"band_fall", std::to_string(bank_.fall)},   {"band_gate", std::to_string(bank_.gate)},
                    {"band_quiet", std::to_string(bank_.quiet)}, {"band_forget", std::to_string(bank_.forget)}};
        const auto K = uint64_t(bank_.bands);
        tensors.push_back({"frontend.poles", "I32", {K, 2}, bank_.poles.data(), bank_.poles.size() * 4});
        tensors.push_back({"frontend.prior", "I32", {K}, bank_.prior.data(), bank_.prior.size() * 4});
        tensors.push_back({"frontend.full", "I32", {K}, bank_.full.data(), bank_.full.size() * 4});
        return true;
    }
    int64_t n_train() const override { return int64_t(used_.size()); }
    int64_t n_valid() const override { return int64_t(held_.size()); }

    void learn(const Settings& s, const s4d::Ready<float>& ready, int64_t example, double weight, s4d::Random& random,
               Slot& slot) const override {
        const sound::Recording& r = data_.list[used_[size_t(example)]];
        std::vector<int32_t>    x = another(r, random);

        // The room: resonators that sit elsewhere, and an equaliser of smooth bends.
        sound::Bank bank = sound::make_bank(geometry_, std::pow(1 + warp_, random.uniform(-1, 1)));
        bank.prior = bank_.prior;
        std::vector<int32_t> bend(size_t(bank.bands), 0);
        const double         a = random.normal(), b = random.normal(), c = random.normal(), d = random.normal();
        for (int k = 0; k < bank.bands; ++k) {
            const double turn = 6.283185307179586 * k / std::max(1, bank.bands - 1);
            const double neper = a * (turn / 3.141592653589793 - 1) + b * std::cos(turn) + 0.7 * c * std::sin(turn) +
                                 0.5 * d * std::cos(2 * turn);
            bend[size_t(k)] = int32_t(std::lround(equaliser_ * neper * 1.4426950408889634 * 65536));
        }
        const int64_t steps = pad(&x), K = bank.bands;
        float* const  f = slot.x.get(steps * K);
        sound::features(bank, x.data(), int64_t(x.size()), bend.data(), f);

        // What may be missing: neighbouring bands, a run of steps.
        const auto off = int64_t(random.below(uint64_t(bands_off_) + 1)),
                   from = int64_t(random.below(uint64_t(K - off + 1)));
        const auto gone = int64_t(double(steps) * frames_off_ * random.uniform());
        const auto gap = int64_t(random.below(uint64_t(steps - gone + 1)));
        for (int64_t t = 0; t < steps; ++t)
            for (int64_t k = 0; k < K; ++k)
                if ((k >= from && k < from + off) || (t >= gap && t < gap + gone)) f[t * K + k] = 0;
        classify(s, ready, f, steps, r.label, weight, &random, slot);
    }
    void measure(const Settings& s, const s4d::Ready<float>& ready, int64_t example, Slot& slot) const override {
        const sound::Recording& r = data_.list[held_[size_t(example - n_train())]];
        std::vector<int32_t>    x = plain(r);
        const int64_t           steps = pad(&x);
        float* const            f = slot.x.get(steps * bank_.bands);
        sound::features(bank_, x.data(), int64_t(x.size()), nullptr, f);
        classify(s, ready, f, steps, r.label, 1, nullptr, slot);
    }
    std::vector<Metric> metrics(double loss, double metric, double count) const override {
        return {{"accuracy", 100 * metric / count}, {"loss", loss / count}};
    }

  private:
    sound::Geometry     geometry_;
    sound::Bank         bank_;
    sound::Recordings   data_;
    std::vector<size_t> used_, held_;
    std::string         hold_;
    double bands_ = 0, samples_ = 0, speed_ = 0, warp_ = 0, equaliser_ = 0, level_ = 0, echo_ = 0, noise_ = 0,
           still_ = 0, bare_ = 0, silence_ = 0, shift_ = 0, bands_off_ = 0, frames_off_ = 0, from_ = 1e9;

    std::vector<int32_t> plain(const sound::Recording& r) const { // Q16
        std::vector<int32_t> x(r.length);
        for (size_t t = 0; t < r.length; ++t) x[t] = 2 * data_.samples[r.offset + t];
        return x;
    }
    int64_t pad(std::vector<int32_t>* x) const { // with silence to whole steps
        const size_t step = size_t(bank_.samples), steps = (x->size() + step - 1) / step;
        x->resize(steps * step, 0);
        return int64_t(steps);
    }

    // A recording as it might have been, in Q16.
    std::vector<int32_t> another(const sound::Recording& r, s4d::Random& random) const {
        // 1. Its duration, by cubic interpolation, and silence around it.
        const int16_t* from = data_.samples.data() + r.offset;
        const double   speed = 1 + random.uniform(-speed_, speed_);
        const auto     n = int64_t(double(r.length) / speed), length = int64_t(r.length);
        const double   gain = 2 * std::pow(10, random.uniform(-level_, level_) / 20);
        int64_t        before = random.uniform() < bare_ ? 0 : int64_t(random.below(uint64_t(shift_) + 1));
        const int64_t  after = int64_t(random.below(uint64_t(shift_) + 1));
        if (random.uniform() < still_) before += int64_t(random.below(uint64_t(silence_) + 1));
        std::vector<double> y(size_t(before + n + after), 0.0);
        const auto          at = [&](int64_t i) { return i < 0 || i >= length ? 0.0 : double(from[i]); };
        double              power = 0;
        for (int64_t i = 0; i < n; ++i) {
            const double  place = double(i) * speed;
            const int64_t k = int64_t(place);
            const double  f = place - double(k), p = at(k - 1), q = at(k), u = at(k + 1), v = at(k + 2);
            const double  value = q + 0.5 * f * (u - p + f * (2 * p - 5 * q + 4 * u - v + f * (3 * (q - u) + v - p)));
            y[size_t(before + i)] = value, power += value * value;
        }
        // 2. Echoes within 0.1 s.
        if (random.uniform() < echo_)
            for (int k = 0; k < 3; ++k) {
                const auto   delay = int64_t(geometry_.rate * random.uniform(0.01, 0.1));
                const double part = random.uniform(-0.35, 0.35);
                for (int64_t i = int64_t(y.size()); --i >= delay;) y[size_t(i)] += part * y[size_t(i - delay)];
            }
        // 3. Noise, white or dull: loud, or some of the last bit.
        const double loud = std::sqrt(power / double(n + 1)) * std::pow(10, -random.uniform(8, 40) / 20);
        const double faint = random.uniform() < 0.5 ? random.uniform(0, 3) : 0;
        const double noise = random.uniform() < noise_ ? loud : faint;
        const double dull = random.uniform() < 0.5 ? random.uniform(0.5, 0.95) : 0, rest = std::sqrt(1 - dull * dull);
        double       filtered = 0;
        std::vector<int32_t> x(y.size());
        for (size_t i = 0; i < y.size(); ++i) {
            if (noise > 0)
                filtered = dull * filtered + rest * 2 * (random.uniform() + random.uniform() + random.uniform() - 1.5);
            x[i] = int32_t(std::max(-65536.0, std::min(65535.0, std::floor((y[i] + noise * filtered) * gain + 0.5))));
        }
        return x;
    }
};

} // namespace train

#endif
