// The adapters' activations, by name.
#pragma once

namespace hyperloader {

enum class Activation { kGeluNew, kGelu, kRelu, kSilu };

}  // namespace hyperloader
