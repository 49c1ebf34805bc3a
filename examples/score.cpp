// Scores one photograph with an exported model, in C++ and without Python.
//
// g++ -std=c++17 score.cpp -I"$OPENVINO/include" "$OPENVINO"/libs/libopenvino.so.* -Wl,-rpath,"$OPENVINO/libs" -o score
// ./score tiles.model/exports/openvino-fp32/openvino-fp32.xml photo.ppm
//
// $OPENVINO is an installation of OpenVINO; the Python package is one:
//
// OPENVINO=$(python -c "import openvino; print(openvino.__path__[0])")
//
// The photograph is a binary PPM (P6, 8 bits) at the model's size. Printed are its score and whether it is above the
// threshold; the map is in the output `anomaly_map`, float32 [1, H, W].

#include <cmath>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <stdexcept>
#include <string>

#include <openvino/openvino.hpp>

ov::Tensor read_ppm(const std::string& path, const ov::Shape& shape) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    size_t width = 0, height = 0, most = 0;
    if (!(file >> magic >> width >> height >> most) || magic != "P6" || most != 255)
        throw std::runtime_error(path + " is no binary PPM of 8 bits");
    if (height != shape[1] || width != shape[2])
        throw std::runtime_error(path + " is " + std::to_string(height) + "x" + std::to_string(width) +
                                 ", the model sees " + std::to_string(shape[1]) + "x" + std::to_string(shape[2]));
    file.get();  // the one white space after the header
    ov::Tensor image(ov::element::u8, shape);
    if (!file.read(static_cast<char*>(image.data()), static_cast<std::streamsize>(image.get_byte_size())))
        throw std::runtime_error(path + " ends before its last pixel");
    return image;
}

int main(int argc, char* argv[]) try {
    if (argc != 3) throw std::runtime_error("usage: score MODEL.xml PHOTO.ppm");
    ov::Core core;
    auto model = core.read_model(argv[1]);
    auto shape = model->input("image").get_partial_shape();
    shape[0] = 1;  // a graph for one image is a quarter faster than one with an open batch
    model->reshape({{"image", shape}});
    auto compiled = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32),
                                       ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
    auto request = compiled.create_infer_request();
    request.set_tensor("image", read_ppm(argv[2], shape.to_shape()));
    request.infer();
    const float score = request.get_tensor("pred_score").data<float>()[0];
    // NaN is above no threshold: without this it would be normal.
    if (!std::isfinite(score)) throw std::runtime_error("the score is not finite; this photograph cannot be judged");
    const bool anomalous = request.get_tensor("pred_label").data<char>()[0] != 0;
    std::cout << std::setprecision(9) << score << (anomalous ? " anomalous" : " normal") << std::endl;
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 1;
}
