// The product of gathered rows with a convolution's weights, and the renormalisation that makes entries of it:
//
//     out[i] = relu( ( sum[base cell of i] + Σ_t row[source of i at t] · W_t ) · scale[i] + b )
//
// Rows are read where they lie in the table: no window is ever written to memory. R rows times W vectors of columns
// stay in registers while all taps and channels go by.
#pragma once

#include <algorithm>
#include <vector>

#include "simd.hpp"

namespace glance {

// Weights [taps, C, C'] for tiles: panels of columns, each [taps, units, vectors, lanes, numbers of a unit].
template <class T>
class Weights {
  public:
    Weights(const float* weights, int taps, int channels_in, int channels)
        : units_(int(rounded_up(channels_in, UNIT<T>)) / UNIT<T>) {
        const int vectors = int(rounded_up(channels, LANES)) / LANES,
                  panels = (vectors + MAX_PANEL_WIDTH - 1) / MAX_PANEL_WIDTH;
        numbers_.resize(std::size_t(taps) * units_ * vectors * LANES * UNIT<T>);
        T* to = numbers_.data();
        for (int panel = 0, first = 0; panel < panels; ++panel) {
            const int width = (vectors - first + panels - panel - 1) / (panels - panel);
            panels_.push_back({to, first, width});
            for (int row = 0; row < taps * units_; ++row)
                for (int column = first * LANES; column < (first + width) * LANES; ++column)
                    for (int part = 0; part < UNIT<T>; ++part, ++to) {
                        const int tap = row / units_, channel = row % units_ * UNIT<T> + part;
                        const bool inside = channel < channels_in && column < channels;
                        const std::size_t position = (std::size_t(tap) * channels_in + channel) * channels + column;
                        put(to, inside ? weights[position] : 0);
                    }
            first += width;
        }
    }

    struct Panel {
        const T* numbers;
        int first, width;  // in vectors
    };

    const std::vector<Panel>& panels() const { return panels_; }
    int units() const { return units_; }

    // Vectors of a panel at most, and rows of its tiles: what 32 registers hold, or 16.
    static constexpr int MAX_PANEL_WIDTH = REGISTERS == 32 ? 4 : 2;
    static constexpr int rows(int width) {
        if (REGISTERS == 16) return width == 2 ? 6 : 8;
        return width == 4 ? 6 : width == 3 ? 8 : 12;
    }

  private:
    int units_;
    std::vector<T> numbers_;
    std::vector<Panel> panels_;
};

// Rows of a table that windows read at some taps: `sources` [entries of the block, taps]; and which entries are wanted.
template <class T>
struct Windows {
    const T* table;
    std::size_t stride;
    const std::int32_t* sources;
    const std::int32_t* taps;
    int count;
    const std::int32_t* entries;
};

// What becomes of the products: `sums` and `base_index` are null for recomputed entries; `scale` and
// `base_index` are of the block's entries, `out` and `unfinished` hold the wanted ones one after the other.
template <class T>
struct Finish {
    const float* sums;
    const std::int32_t* base_index;
    const float* scale;
    const float* bias;
    T* out;
    float* unfinished;  // where the sums themselves go, or null
    std::size_t stride;
};

template <class T, int W, int R>
[[gnu::noinline]] void tile(const Windows<T>& windows, const Finish<T>& finish, const Weights<T>& weights,
                            const typename Weights<T>::Panel& panel, int first, int stop) {
    const std::size_t column = std::size_t(panel.first) * LANES, units = weights.units();
    // Beyond the last entry the last one is computed again, and gives the same numbers.
    int position[R], entry[R];
    for (int r = 0; r < R; ++r) position[r] = std::min(first + r, stop - 1), entry[r] = windows.entries[position[r]];
    Vector sum[R][W];
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w)
            sum[r][w] = finish.base_index
                            ? load(finish.sums + finish.base_index[entry[r]] * finish.stride + column + w * LANES)
                            : Vector{};
    for (int t = 0; t < windows.count; ++t) {
        const T* row[R];
        for (int r = 0; r < R; ++r)
            row[r] = windows.table + windows.sources[std::size_t(entry[r]) * windows.count + t] * windows.stride;
        constexpr std::size_t step = W * LANES * UNIT<T>;
        const T* vectors = panel.numbers + windows.taps[t] * units * step;
        for (std::size_t u = 0; u < units; ++u, vectors += step)
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                for (int w = 0; w < W; ++w)
                    sum[r][w] = multiply_add(sum[r][w], row[r], u, vectors + w * LANES * UNIT<T>);
    }
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) {
            const std::size_t to = position[r] * finish.stride + column + w * LANES;
            const Vector ready = sum[r][w] * finish.scale[entry[r]] + load(finish.bias + column + w * LANES);
            store(finish.out + to, larger(ready, Vector{}));
            if (finish.unfinished) store(finish.unfinished + to, sum[r][w]);
        }
}

// The entries of a tile; a tile of half as many rows takes what few are left.
template <class T, int W>
void tiles(const Windows<T>& windows, const Finish<T>& finish, const Weights<T>& weights,
           const typename Weights<T>::Panel& panel, int first, int stop) {
    constexpr int R = Weights<T>::rows(W);
    for (; stop - first > R / 2; first += R)
        tile<T, W, R>(windows, finish, weights, panel, first, std::min(first + R, stop));
    if (first < stop) tile<T, W, R / 2>(windows, finish, weights, panel, first, stop);
}

// The first `count` of the wanted entries.
template <class T>
void multiply(const Windows<T>& windows, const Finish<T>& finish, const Weights<T>& weights, int count) {
    for (const auto& panel : weights.panels()) {
        if (panel.width == 1) tiles<T, 1>(windows, finish, weights, panel, 0, count);
        if (panel.width == 2) tiles<T, 2>(windows, finish, weights, panel, 0, count);
        if constexpr (Weights<T>::MAX_PANEL_WIDTH > 2) {
            if (panel.width == 3) tiles<T, 3>(windows, finish, weights, panel, 0, count);
            if (panel.width == 4) tiles<T, 4>(windows, finish, weights, panel, 0, count);
        }
    }
}

}  // namespace glance
