// A serialized plan, which export/graph/dense_pass_node.py writes: read once, each number checked, as files may be
// hostile.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace glance {

// Cells of a window along an axis, at most.
constexpr int MAX_KERNEL = 15;

// Consecutive rows of a step's table whose windows read the same taps: `sources` [count, taps], rows of the table
// below if `recompute`, else of its changes.
struct MatmulBlock {
    int first, count;
    bool recompute;
    std::vector<std::int32_t> taps, sources;
};

struct Step {
    bool conv;
    int kernel, channels_in, channels, height, width, entries;
    std::vector<std::int32_t> base_index;  // the base cell of each entry
    std::vector<float> scale;              // k²/sum(M) of each base cell and entry, of a convolution
    MatmulBlock base;
    std::vector<MatmulBlock> blocks;
    bool changes;  // whether the next step reads what holes change here

    int cells() const { return height * width; }
    int zero() const { return cells() + entries; }
};

class Plan {
  public:
    int channels, height, width;
    std::vector<Step> steps;
    int locations, cells;               // `cells` are read at each location
    std::vector<std::int32_t> readout;  // rows of the last table [locations, cells]
    bool changes;                       // whether the first step reads what holes change in the image

    explicit Plan(const std::int32_t* serialized, std::size_t count) : next_(serialized), end_(serialized + count) {
        channels = read_number(1, 4096), height = read_number(1, 16384), width = read_number(1, 16384);
        steps.resize(read_number(1, 64));
        int rows = height, columns = width, below = channels, entries = 0;
        for (Step& step : steps) {
            step.conv = read_number(0, 1);
            step.kernel = read_number(1, MAX_KERNEL);
            step.channels_in = below;
            step.channels = read_number(1, 4096);
            const int pad = step.conv ? step.kernel / 2 : 0, stride = step.conv ? 1 : step.kernel;
            step.height = (rows + 2 * pad - step.kernel) / stride + 1;
            step.width = (columns + 2 * pad - step.kernel) / stride + 1;
            require(step.height > 0 && step.width > 0, "a level without cells");
            require(step.conv || step.channels == below, "a pool that changes channels");
            read(step, rows * columns, entries);
            step.base = base_block(step, rows, columns, pad, stride, rows * columns + entries);
            rows = step.height, columns = step.width, below = step.channels, entries = step.entries;
        }
        locations = read_number(1, 1 << 28), cells = read_number(1, 4096);
        readout = read_numbers(std::size_t(locations) * cells, 0, steps.back().zero());
        require(next_ == end_, "more numbers than it has");
        const auto adds = [](const Step& step) {
            for (const MatmulBlock& block : step.blocks)
                if (!block.recompute) return true;
            return false;
        };
        changes = adds(steps.front());
        for (std::size_t i = 0; i < steps.size(); ++i) steps[i].changes = i + 1 < steps.size() && adds(steps[i + 1]);
    }

  private:
    const std::int32_t *next_, *end_;

    static void require(bool holds, const std::string& otherwise) {
        if (!holds) throw std::invalid_argument("this plan has " + otherwise + "; export the model again");
    }

    int read_number(std::int64_t minimum, std::int64_t maximum) {
        require(next_ != end_, "fewer numbers than it says");
        require(*next_ >= minimum && *next_ <= maximum, "a number " + std::to_string(*next_) + " out of " +
                                                            std::to_string(minimum) + " to " + std::to_string(maximum));
        return *next_++;
    }

    std::vector<std::int32_t> read_numbers(std::size_t count, std::int64_t minimum, std::int64_t maximum) {
        require(count <= std::size_t(end_ - next_), "fewer numbers than it says");
        std::vector<std::int32_t> values(count);
        for (std::int32_t& value : values) value = read_number(minimum, maximum);
        return values;
    }

    void read(Step& step, int base_below, int entries_below) {
        const int taps = step.kernel * step.kernel, zero_below = base_below + entries_below;
        step.entries = read_number(0, 1 << 28);
        step.base_index = read_numbers(step.entries, 0, step.cells() - 1);
        if (step.conv)
            for (std::int32_t valid : read_numbers(std::size_t(step.zero()), 1, taps))
                step.scale.push_back(float(taps) / valid);
        step.blocks.resize(read_number(0, 1 << 20));
        std::int64_t first = step.cells();
        for (MatmulBlock& block : step.blocks) {
            block.first = int(first);
            block.count = read_number(1, step.entries);
            first += block.count;
            block.recompute = read_number(step.conv ? 0 : 1, 1);
            block.taps = read_numbers(read_number(1, taps), 0, taps - 1);
            block.sources = read_numbers(std::size_t(block.count) * block.taps.size(), 0, zero_below);
        }
        require(first == step.zero(), "blocks of more or fewer entries than it has");
    }

    // The base cells of a step as a block of its own.
    static MatmulBlock base_block(const Step& step, int rows, int columns, int pad, int stride, int zero) {
        MatmulBlock block{0, step.cells(), true, {}, {}};
        for (int tap = 0; tap < step.kernel * step.kernel; ++tap) block.taps.push_back(tap);
        for (int y = 0; y < step.height; ++y)
            for (int x = 0; x < step.width; ++x)
                for (int tap : block.taps) {
                    const int row = y * stride - pad + tap / step.kernel, column = x * stride - pad + tap % step.kernel;
                    const bool inside = row >= 0 && row < rows && column >= 0 && column < columns;
                    block.sources.push_back(inside ? row * columns + column : zero);
                }
        return block;
    }
};

}  // namespace glance
