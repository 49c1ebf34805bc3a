// The dense pass: Global-Net for all locations of an image at once, level by level, on all cores.
#pragma once

#include <tbb/parallel_for.h>

#include <memory>
#include <mutex>
#include <vector>

#include "product.hpp"
#include "program.hpp"

namespace glance {

// Memory for one image, kept for the next one: fresh pages would cost as much as the products.
template <class T>
struct Workspace {
    std::vector<T> values[2], changes[2];
    std::vector<float> sums;
};

template <class T>
class DensePass {
  public:
    // `numbers`: of each convolution its weights [k², C, C'], then its bias [C'].
    DensePass(Program program, const float* numbers, std::size_t count) : program_(std::move(program)) {
        const float* end = numbers + count;
        std::size_t rows = (std::size_t(program_.height) * program_.width + 1) * image_stride(), sums = 0;
        for (const Step& step : program_.steps) {
            layers_.push_back({stride(step.channels), nullptr, {}, pieces(step.base), {}});
            Layer& layer = layers_.back();
            for (const Block& block : step.blocks)
                for (const Piece& piece : pieces(block)) layer.entries.push_back(piece);
            rows = std::max(rows, (std::size_t(step.zero()) + 1) * layer.stride);
            if (!step.conv) continue;
            const int taps = step.kernel * step.kernel;
            const std::size_t weights = std::size_t(taps) * step.channels_in * step.channels;
            if (std::size_t(end - numbers) < weights + step.channels)
                throw std::invalid_argument("fewer weights than the plan has; export the model again");
            layer.weights = std::make_unique<Weights<T>>(numbers, taps, step.channels_in, step.channels);
            layer.bias.assign(numbers + weights, numbers + weights + step.channels);
            layer.bias.resize(layer.stride);
            numbers += weights + step.channels;
            sums = std::max(sums, std::size_t(step.cells()) * layer.stride);
        }
        if (numbers != end) throw std::invalid_argument("more weights than the plan has; export the model again");
        rows_ = rows, sums_ = sums;
    }

    const Program& program() const { return program_; }

    // What each location reads of the last level, [locations, cells * channels], of an image [C, H, W]. Any number of
    // threads may run at once.
    void run(const float* image, float* out) const {
        std::unique_ptr<Workspace<T>> space = taken();
        T *values = space->values[0].data(), *changes = space->changes[0].data();
        T *next = space->values[1].data(), *next_changes = space->changes[1].data();
        read(image, values, changes);
        std::size_t below = image_stride();
        for (std::size_t i = 0; i < layers_.size(); ++i) {
            const Step& step = program_.steps[i];
            const Level from{values, changes, below}, to{next, next_changes, layers_[i].stride};
            clear(to, step.zero(), step.changes);
            level(step, layers_[i], layers_[i].base, from, to, space->sums.data());
            level(step, layers_[i], layers_[i].entries, from, to, space->sums.data());
            std::swap(values, next), std::swap(changes, next_changes);
            below = layers_[i].stride;
        }
        const int channels = program_.steps.back().channels;
        for (const std::int32_t row : program_.readout)
            for (int c = 0; c < channels; ++c) *out++ = number(values[row * below + c]);
        given_back(std::move(space));
    }

  private:
    struct Piece {
        const Block* block;
        int first, stop;  // of the block's rows
    };

    struct Layer {
        std::size_t stride;
        std::unique_ptr<Weights<T>> weights;
        std::vector<float> bias;
        std::vector<Piece> base, entries;
    };

    struct Level {
        T *values, *changes;
        std::size_t stride;
    };

    // Rows that a task takes: a multiple of every tile's, few enough that two cores end at the same time.
    static constexpr int PIECE = 96;

    Program program_;
    std::vector<Layer> layers_;
    std::size_t rows_, sums_;
    mutable std::mutex free_lock_;
    mutable std::vector<std::unique_ptr<Workspace<T>>> free_;

    static std::size_t stride(int channels) { return rounded_up(channels, LANES); }
    std::size_t image_stride() const { return rounded_up(program_.channels, 4); }

    static std::vector<Piece> pieces(const Block& block) {
        std::vector<Piece> found;
        for (int first = 0; first < block.count; first += PIECE)
            found.push_back({&block, first, std::min(first + PIECE, block.count)});
        return found;
    }

    std::unique_ptr<Workspace<T>> taken() const {
        {
            std::lock_guard<std::mutex> lock(free_lock_);
            if (!free_.empty()) {
                auto space = std::move(free_.back());
                free_.pop_back();
                return space;
            }
        }
        auto space = std::make_unique<Workspace<T>>();
        for (int i : {0, 1}) space->values[i].resize(rows_), space->changes[i].resize(rows_);
        space->sums.resize(sums_);
        return space;
    }

    void given_back(std::unique_ptr<Workspace<T>> space) const {
        std::lock_guard<std::mutex> lock(free_lock_);
        free_.push_back(std::move(space));
    }

    template <class Task>
    static void in_parallel(std::size_t count, const Task& task) {
        tbb::parallel_for(tbb::blocked_range<std::size_t>(0, count), [&](const tbb::blocked_range<std::size_t>& range) {
            for (std::size_t i = range.begin(); i != range.end(); ++i) task(i);
        });
    }

    // The image as the first table: `base | zero`, and its changes: `−base | zero`.
    void read(const float* image, T* values, T* changes) const {
        const std::size_t cells = std::size_t(program_.height) * program_.width, wide = image_stride();
        in_parallel(program_.height, [&](std::size_t y) {
            for (std::size_t cell = y * program_.width; cell < (y + 1) * program_.width; ++cell)
                for (std::size_t c = 0; c < wide; ++c) {
                    const float value = int(c) < program_.channels ? image[c * cells + cell] : 0;
                    put(values + cell * wide + c, value);
                    if (program_.changes) put(changes + cell * wide + c, -value);
                }
        });
        clear({values, changes, wide}, cells, program_.changes);
    }

    // The zero row, which dead cells and cells outside the image are.
    static void clear(const Level& level, std::size_t zero, bool changes) {
        std::fill_n(level.values + zero * level.stride, level.stride, T{});
        if (changes) std::fill_n(level.changes + zero * level.stride, level.stride, T{});
    }

    static void level(const Step& step, const Layer& layer, const std::vector<Piece>& pieces, const Level& from,
                      const Level& to, float* sums) {
        in_parallel(pieces.size(), [&](std::size_t i) {
            const Piece& piece = pieces[i];
            if (step.conv)
                convolve(step, layer, piece, from, to, sums);
            else
                pool(piece, from, to);
            if (step.changes) change(step, piece, to);
        });
    }

    static void convolve(const Step& step, const Layer& layer, const Piece& piece, const Level& from, const Level& to,
                         float* sums) {
        const Block& block = *piece.block;
        const bool base = block.first == 0;
        const Windows<T> windows{block.whole ? from.values : from.changes, from.stride, block.sources.data(),
                                 block.taps.data(), int(block.taps.size())};
        const std::int32_t* homes = block.whole ? nullptr : step.homes.data() + block.first - step.cells();
        const Finish<T> finish{sums,
                               homes,
                               step.scale.data() + block.first,
                               layer.bias.data(),
                               to.values + block.first * to.stride,
                               base ? sums : nullptr,
                               to.stride};
        multiply(windows, finish, *layer.weights, piece.first, piece.stop);
    }

    static void pool(const Piece& piece, const Level& from, const Level& to) {
        const Block& block = *piece.block;
        const std::size_t taps = block.taps.size();
        for (int i = piece.first; i < piece.stop; ++i) {
            const std::int32_t* sources = block.sources.data() + i * taps;
            T* out = to.values + std::size_t(block.first + i) * to.stride;
            for (std::size_t c = 0; c < to.stride; c += LANES) {
                Vector most = load(from.values + sources[0] * from.stride + c);
                for (std::size_t t = 1; t < taps; ++t)
                    most = larger(most, load(from.values + sources[t] * from.stride + c));
                store(out + c, most);
            }
        }
    }

    // What rows differ by from their base cells; a base cell that is dead differs by itself.
    static void change(const Step& step, const Piece& piece, const Level& to) {
        for (int i = piece.first; i < piece.stop; ++i) {
            const int row = piece.block->first + i, entry = row - step.cells();
            const T* value = to.values + row * to.stride;
            const T* home = entry < 0 ? nullptr : to.values + step.homes[entry] * to.stride;
            T* out = to.changes + (entry < 0 ? step.entries + row : entry) * to.stride;
            for (std::size_t c = 0; c < to.stride; c += LANES)
                store(out + c, home ? load(value + c) - load(home + c) : -load(value + c));
        }
    }
};

}  // namespace glance
