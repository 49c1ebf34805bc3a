// The dense pass: Global-Net for all locations of an image at once, level by level, on all cores.
#pragma once

#include <tbb/parallel_for.h>

#include <memory>
#include <mutex>
#include <vector>

#include "gather_gemm.hpp"
#include "plan.hpp"
#include "schedule.hpp"

namespace glance {

// Memory for one image, kept for the next: fresh pages would cost as much as the products.
template <class T>
struct Workspace {
    // Of three levels: a pool whose work items compute what they read of a convolution reads the level below that too.
    std::vector<T> values[3], changes[3];
    std::vector<float> sums;
};

template <class T>
class DensePass {
  public:
    // `numbers`: of each convolution its weights [k², C, C'], then its bias [C'].
    DensePass(Plan plan, const float* numbers, std::size_t count) : plan_(std::move(plan)) {
        const float* end = numbers + count;
        rows_ = (std::size_t(plan_.height) * plan_.width + 1) * image_stride();
        for (const Step& step : plan_.steps) {
            layers_.emplace_back();
            LayerWork& layer = layers_.back();
            layer.stride = rounded_up(step.channels, LANES);
            rows_ = std::max(rows_, (std::size_t(step.zero()) + 1) * layer.stride);
            (step.conv ? convolve : pool)(step.base, layer.base);
            for (const MatmulBlock& block : step.blocks) (step.conv ? convolve : pool)(block, layer.entries);
            if (!step.conv) {
                const std::size_t below = layers_.size() - 2;
                if (layers_.size() > 1 && plan_.steps[below].conv && fuse(plan_.steps[below], layer.entries))
                    layers_[below].entries.clear();
                continue;
            }
            const int taps = step.kernel * step.kernel;
            const std::size_t weights = std::size_t(taps) * step.channels_in * step.channels;
            require(std::size_t(end - numbers) >= weights + step.channels, "fewer weights than the plan has");
            layer.weights = std::make_unique<Weights<T>>(numbers, taps, step.channels_in, step.channels);
            layer.bias.assign(numbers + weights, numbers + weights + step.channels);
            layer.bias.resize(layer.stride);
            numbers += weights + step.channels;
            sums_ = std::max(sums_, std::size_t(step.cells()) * layer.stride);
        }
        require(numbers == end, "more weights than the plan has");
    }

    const Plan& plan() const { return plan_; }

    // Writes what each location reads of the last level, [locations, cells * channels], for an image [C, H, W]. Any
    // number of threads may call it at once.
    void run(const float* image, float* out) const {
        std::unique_ptr<Workspace<T>> space = acquire();
        const auto table = [&](std::size_t i, std::size_t stride) {
            return Level{space->values[i % 3].data(), space->changes[i % 3].data(), stride};
        };
        Level below{}, from = table(0, image_stride());
        read(image, from);
        for (std::size_t i = 0; i < layers_.size(); ++i) {
            const LayerWork& layer = layers_[i];
            const Step& step = plan_.steps[i];
            const Level to = table(i + 1, layer.stride);
            clear(to, step.zero(), step.changes);
            const auto each = [&](const WorkItem& item) {
                if (step.conv)
                    convolved(i, item.ranges[0], from, row(to, item.ranges[0].first), space->sums.data());
                else
                    pooled(i, item, below, from, to, space->sums.data());
            };
            for (const std::vector<WorkItem>* items : {&layer.base, &layer.entries}) {
                in_parallel(items->size(), [&](std::size_t k) {
                    const WorkItem& item = (*items)[k];
                    each(item);
                    if (step.changes) changed(step, item, to);
                });
            }
            below = from, from = to;
        }
        const int channels = plan_.steps.back().channels;
        for (const std::int32_t read : plan_.readout)
            for (int c = 0; c < channels; ++c) *out++ = number(row(from, read)[c]);
        release(std::move(space));
    }

  private:
    // A step's weights and the work items of its base cells and of its entries.
    struct LayerWork {
        std::size_t stride;
        std::unique_ptr<Weights<T>> weights;
        std::vector<float> bias;
        std::vector<WorkItem> base, entries;
    };

    struct Level {
        T *values, *changes;
        std::size_t stride;
    };

    Plan plan_;
    std::vector<LayerWork> layers_;
    std::size_t rows_ = 0, sums_ = 0;
    mutable std::mutex lock_;
    mutable std::vector<std::unique_ptr<Workspace<T>>> free_;

    std::size_t image_stride() const { return rounded_up(plan_.channels, 4); }
    static T* row(const Level& level, std::size_t i) { return level.values + i * level.stride; }

    static void require(bool holds, const char* otherwise) {
        if (!holds) throw std::invalid_argument(std::string(otherwise) + "; export the model again");
    }

    std::unique_ptr<Workspace<T>> acquire() const {
        {
            std::lock_guard<std::mutex> lock(lock_);
            if (!free_.empty()) {
                auto space = std::move(free_.back());
                free_.pop_back();
                return space;
            }
        }
        auto space = std::make_unique<Workspace<T>>();
        for (int i : {0, 1, 2}) space->values[i].resize(rows_), space->changes[i].resize(rows_);
        space->sums.resize(sums_);
        return space;
    }

    void release(std::unique_ptr<Workspace<T>> space) const {
        std::lock_guard<std::mutex> lock(lock_);
        free_.push_back(std::move(space));
    }

    template <class Each>
    static void in_parallel(std::size_t count, const Each& each) {
        tbb::parallel_for(std::size_t(0), count, each);
    }

    // The image as the first table: `base | zero`, and its changes: `−base | zero`.
    void read(const float* image, const Level& to) const {
        const std::size_t cells = std::size_t(plan_.height) * plan_.width;
        in_parallel(plan_.height, [&](std::size_t y) {
            for (std::size_t cell = y * plan_.width; cell < (y + 1) * plan_.width; ++cell)
                for (std::size_t c = 0; c < to.stride; ++c) {
                    const float value = int(c) < plan_.channels ? image[c * cells + cell] : 0;
                    put(row(to, cell) + c, value);
                    if (plan_.changes) put(to.changes + cell * to.stride + c, -value);
                }
        });
        clear(to, cells, plan_.changes);
    }

    // The zero row, which dead cells and cells outside the image are.
    static void clear(const Level& level, std::size_t zero, bool changes) {
        std::fill_n(row(level, zero), level.stride, T{});
        if (changes) std::fill_n(level.changes + zero * level.stride, level.stride, T{});
    }

    // Entries, or base cells, of the convolution `i`; what base cells sum to is kept for the entries.
    void convolved(std::size_t i, const Range& range, const Level& from, T* to, float* sums) const {
        const Step& step = plan_.steps[i];
        const LayerWork& layer = layers_[i];
        const MatmulBlock& block = *range.block;
        const bool base = &block == &step.base;
        const Windows<T> windows{block.recompute ? from.values : from.changes,
                                 from.stride,
                                 block.sources.data(),
                                 block.taps.data(),
                                 int(block.taps.size()),
                                 range.entries.data()};
        const Finish<T> finish{sums,
                               block.recompute ? nullptr : step.base_index.data() + block.first - step.cells(),
                               step.scale.data() + block.first,
                               layer.bias.data(),
                               to,
                               base ? sums + range.first * layer.stride : nullptr,
                               layer.stride};
        multiply(windows, finish, *layer.weights, int(range.entries.size()));
    }

    // Pooled entries, or base cells, of the step `i`, from the convolution's table, or from what is computed of it
    // here.
    void pooled(std::size_t i, const WorkItem& item, const Level& below, const Level& from, const Level& to,
                float* sums) const {
        static thread_local std::vector<T> computed;
        std::size_t rows = 0;
        for (const Range& range : item.ranges) rows += range.entries.size();
        if (computed.size() < rows * from.stride) computed.resize(rows * from.stride);
        for (const Range& range : item.ranges)
            convolved(i - 1, range, below, computed.data() + range.first * from.stride, sums);
        const std::size_t taps = item.sources.size() / item.count;
        const std::int32_t* sources = item.sources.data();
        const T* read[MAX_KERNEL * MAX_KERNEL];
        for (int k = 0; k < item.count; ++k, sources += taps) {
            for (std::size_t t = 0; t < taps; ++t)
                read[t] = sources[t] < 0 ? computed.data() + (-1 - sources[t]) * from.stride : row(from, sources[t]);
            for (std::size_t c = 0; c < to.stride; c += LANES) {
                Vector largest = load(read[0] + c);
                for (std::size_t t = 1; t < taps; ++t) largest = larger(largest, load(read[t] + c));
                store(row(to, item.first + k) + c, largest);
            }
        }
    }

    // What rows differ by from their base cells; a base cell that is dead differs by itself.
    static void changed(const Step& step, const WorkItem& item, const Level& to) {
        const int first = step.conv ? item.ranges[0].first : item.first;
        const int count = step.conv ? int(item.ranges[0].entries.size()) : item.count;
        for (int i = first; i < first + count; ++i) {
            const int entry = i - step.cells();
            const T* base = entry < 0 ? nullptr : row(to, step.base_index[entry]);
            T* out = to.changes + (entry < 0 ? step.entries + i : entry) * to.stride;
            for (std::size_t c = 0; c < to.stride; c += LANES)
                store(out + c, base ? load(row(to, i) + c) - load(base + c) : -load(row(to, i) + c));
        }
    }
};

}  // namespace glance
