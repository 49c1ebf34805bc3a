// The dense pass as an operator of OpenVINO, `DensePass`, by an extension: `Core.add_extension(library)`.
//
// In: what Global-Net reads, float32 [B, C, H, W]; the plan, int32 [n]; the weights, float32 [m]. Out: what each
// location reads of the last level, float32 [B, locations, width].
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/op.hpp>

#include <memory>
#include <mutex>

#include "dense_pass.hpp"

namespace glance {

// A pass that is made of the first constants that come; copies of the operator share it.
template <class T>
class LazyPass {
  public:
    const DensePass<T>& pass(const ov::Tensor& plan, const ov::Tensor& weights) {
        std::call_once(made_, [&] {
            pass_ = std::make_unique<DensePass<T>>(Plan(plan.data<std::int32_t>(), plan.get_size()),
                                                   weights.data<float>(), weights.get_size());
        });
        return *pass_;
    }

  private:
    std::once_flag made_;
    std::unique_ptr<DensePass<T>> pass_;
};

class Operator : public ov::op::Op {
  public:
    OPENVINO_OP("DensePass", "glance_fast");

    Operator() = default;
    explicit Operator(const ov::OutputVector& inputs) : Op(inputs) {}

    void validate_and_infer_types() override {
        OPENVINO_ASSERT(get_input_size() == 3, "DensePass takes an image, a plan and weights, got ", get_input_size());
        const ov::PartialShape image = get_input_partial_shape(0);
        OPENVINO_ASSERT(image.rank().compatible(4), "DensePass reads images [B, C, H, W], got ", image);
        OPENVINO_ASSERT(locations_ > 0 && width_ > 0, "DensePass gives at least one location, and one number of each");
        const ov::Dimension batch = image.rank().is_static() ? image[0] : ov::Dimension::dynamic();
        set_output_type(0, ov::element::f32, {batch, locations_, width_});
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        auto clone = std::make_shared<Operator>(inputs);
        clone->locations_ = locations_, clone->width_ = width_, clone->bfloat16_ = bfloat16_;
        clone->float32_pass_ = float32_pass_, clone->bfloat16_pass_ = bfloat16_pass_;
        clone->validate_and_infer_types();
        return clone;
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("locations", locations_);
        visitor.on_attribute("width", width_);
        visitor.on_attribute("bfloat16", bfloat16_);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        outputs[0].set_shape({inputs[0].get_shape()[0], std::size_t(locations_), std::size_t(width_)});
        if (!bfloat16_) {
            run(float32_pass_->pass(inputs[1], inputs[2]), inputs[0], outputs[0]);
            return true;
        }
#ifdef __AVX512BF16__
        run(bfloat16_pass_->pass(inputs[1], inputs[2]), inputs[0], outputs[0]);
        return true;
#else
        OPENVINO_THROW("this CPU multiplies no bfloat16; export the model at fp32");
#endif
    }

  private:
    std::int64_t locations_ = 1, width_ = 1, bfloat16_ = 0;
    std::shared_ptr<LazyPass<float>> float32_pass_ = std::make_shared<LazyPass<float>>();
#ifdef __AVX512BF16__
    std::shared_ptr<LazyPass<BFloat16>> bfloat16_pass_ = std::make_shared<LazyPass<BFloat16>>();
#else
    std::shared_ptr<void> bfloat16_pass_;
#endif

    template <class T>
    void run(const DensePass<T>& pass, const ov::Tensor& images, ov::Tensor& out) const {
        const Plan& plan = pass.plan();
        const ov::Shape shape = images.get_shape(),
                        wanted{shape[0], std::size_t(plan.channels), std::size_t(plan.height), std::size_t(plan.width)};
        OPENVINO_ASSERT(shape == wanted, "this DensePass reads images ", wanted, ", got ", shape);
        const std::size_t width = std::size_t(plan.cells) * plan.steps.back().channels;
        OPENVINO_ASSERT(std::size_t(locations_) == std::size_t(plan.locations) && std::size_t(width_) == width,
                        "this DensePass gives [", plan.locations, ", ", width, "] an image; export the model again");
        for (std::size_t i = 0; i < shape[0]; ++i)
            pass.run(images.data<float>() + i * shape[1] * shape[2] * shape[3],
                     out.data<float>() + i * locations_ * width);
    }
};

}  // namespace glance

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({
    std::make_shared<ov::OpExtension<glance::Operator>>(),
    std::make_shared<ov::frontend::onnx::OpExtension<glance::Operator>>("DensePass", "glance_fast"),
}));
