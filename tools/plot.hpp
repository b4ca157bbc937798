// plot.hpp - curves over a common x as a small SVG, each with its own scale of y.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_PLOT_HPP
#define SSM_TOOLS_PLOT_HPP

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

struct Curve {
    std::string         name, colour;
    bool                at_left = true; // where its scale and name stand
    std::vector<double> x, y;
};

// x runs from 0 to x_most; `x_text` stands under its end.
inline std::string plot(const std::vector<Curve>& curves, double x_most, const std::string& x_text) {
    const double width = 720, height = 360, left = 60, right = 60, top = 24, bottom = 40;
    std::string  out = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 360\" font-family=\"sans-serif\" "
                       "font-size=\"12\">\n"
                       "<rect width=\"720\" height=\"360\" fill=\"white\"/>\n"
                       "<path d=\"M60 24V320H660V24\" fill=\"none\" stroke=\"#888\"/>\n";
    char         text[64];
    const auto write = [&](double x, double y, const char* anchor, const std::string& colour, const std::string& what) {
        std::snprintf(text, sizeof text, "<text x=\"%g\" y=\"%g\" text-anchor=\"", x, y);
        out += text + std::string(anchor) + "\"" + (colour.empty() ? "" : " fill=\"" + colour + "\"") + ">" + what +
               "</text>\n";
    };
    const auto short_number = [&](double v) {
        std::snprintf(text, sizeof text, "%.4g", v);
        return std::string(text);
    };
    for (const Curve& c : curves) {
        if (c.y.empty()) continue;
        double low = c.y[0], high = c.y[0];
        for (double v : c.y) low = std::min(low, v), high = std::max(high, v);
        if (high <= low) high = low + 1;
        out += "<polyline fill=\"none\" stroke=\"" + c.colour + "\" stroke-width=\"1.5\" points=\"";
        for (size_t i = 0; i < c.y.size(); ++i) {
            std::snprintf(text, sizeof text, "%.1f,%.1f ", left + (width - left - right) * c.x[i] / x_most,
                          height - bottom - (height - top - bottom) * (c.y[i] - low) / (high - low));
            out += text;
        }
        out += "\"/>\n";
        const double at = c.at_left ? left - 6 : width - right + 6;
        const char*  anchor = c.at_left ? "end" : "start";
        write(at, top + 4, anchor, c.colour, short_number(high));
        write(at, height - bottom, anchor, c.colour, short_number(low));
        write(c.at_left ? left : width - right, top - 8, c.at_left ? "start" : "end", c.colour, c.name);
    }
    write(width - right, height - bottom + 18, "end", "", x_text);
    return out + "</svg>\n";
}

#endif
