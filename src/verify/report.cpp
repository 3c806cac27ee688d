#include "pluvia/verify/report.hpp"

#include <cmath>
#include <fstream>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"
#include "pluvia/io/durable.hpp"

namespace pluvia {

namespace {

nlohmann::json number(double value) {
  return std::isnan(value) ? nlohmann::json(nullptr) : nlohmann::json(value);
}
std::string cell(double value) {
  return std::isnan(value) ? std::string() : fmt::format("{:.9g}", value);
}

/// Forecast and observed frequency in MET's bins, and the ROC curve, of one system, lead and threshold.
nlohmann::json curves(const ScoreTable& table, int system, int lead, int threshold) {
  const ForecastHistogram& h = table.histogram(system, lead, threshold);
  nlohmann::json reliability = nlohmann::json::array(), roc = nlohmann::json::array();
  double all = 0;
  for (const std::int64_t w : h.weight) all += static_cast<double>(w);
  for (int b = 0; b < ScoreCounts::bins; ++b) {
    double weight = 0, events = 0, forecast = 0;
    for (int v = 100 * b; v < (b + 1 == ScoreCounts::bins ? 1001 : 100 * (b + 1)); ++v) {
      const auto w = static_cast<double>(h.weight[static_cast<std::size_t>(v)]);
      weight += w, forecast += w * v / 1000.0;
      events += static_cast<double>(h.events[static_cast<std::size_t>(v)]);
    }
    if (weight > 0)
      reliability.push_back(
          {{"forecast", forecast / weight}, {"observed", events / weight}, {"share", weight / all}});
  }
  for (const int v : {0,   1,   2,   5,   10,  20,  30,  50,  70,  100, 150, 200, 250,  300, 350,
                      400, 450, 500, 550, 600, 650, 700, 750, 800, 850, 900, 950, 1000, 1001}) {
    const ContingencyTable t = contingency(h, v);
    roc.push_back({{"probability", v / 1000.0}, {"pody", number(pody(t))}, {"pofd", number(pofd(t))}});
  }
  return {{"system", table.systems()[static_cast<std::size_t>(system)]},
          {"lead_hours", table.leads_hours()[static_cast<std::size_t>(lead)]},
          {"threshold_mm", table.thresholds_mm()[static_cast<std::size_t>(threshold)]},
          {"reliability", reliability},
          {"roc", roc}};
}

} // namespace

void write_report(const std::string& folder, const ScoreTable& table, const std::vector<Score>& scores,
                  const ReportHeader& header) {
  nlohmann::ordered_json out;
  out["producer"] = std::string("pluvia ") + PLUVIA_VERSION;
  out["test_range"] = {{"from", header.test_from}, {"to", header.test_to}};
  out["forecasts"] = header.forecasts;
  if (header.climatology_alpha > 0) out["climatology_alpha"] = header.climatology_alpha;
  out["systems"] = table.systems();
  out["leads_hours"] = table.leads_hours();
  out["thresholds_mm"] = table.thresholds_mm();
  out["days"] = table.days().size();
  out["weights"] = "cell areas; forecasts in thousandths; 95 % intervals by bootstrap over days";
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::string csv = "lead_hours,threshold_mm,system,score,value,lower,upper,n_valid\n";
  for (const Score& s : scores) {
    const std::string& system = table.systems()[static_cast<std::size_t>(s.system)];
    const double lead = table.leads_hours()[static_cast<std::size_t>(s.lead)];
    nlohmann::ordered_json row;
    row["lead_hours"] = lead;
    row["threshold_mm"] = s.threshold < 0
                              ? nlohmann::json(nullptr)
                              : nlohmann::json(table.thresholds_mm()[static_cast<std::size_t>(s.threshold)]);
    row["system"] = system;
    row["score"] = s.name;
    row["value"] = number(s.value), row["lower"] = number(s.lower), row["upper"] = number(s.upper);
    row["n_valid"] = s.n_valid;
    rows.push_back(std::move(row));
    csv += fmt::format("{},{},{},{},{},{},{},{}\n", lead,
                       s.threshold < 0
                           ? ""
                           : fmt::format("{}", table.thresholds_mm()[static_cast<std::size_t>(s.threshold)]),
                       system, s.name, cell(s.value), cell(s.lower), cell(s.upper), s.n_valid);
  }
  out["scores"] = std::move(rows);
  nlohmann::json curve_rows = nlohmann::json::array();
  for (std::size_t s = 0; s < table.systems().size(); ++s)
    for (std::size_t l = 0; l < table.leads_hours().size(); ++l)
      for (std::size_t k = 0; k < table.thresholds_mm().size(); ++k)
        curve_rows.push_back(curves(table, static_cast<int>(s), static_cast<int>(l), static_cast<int>(k)));
  out["curves"] = std::move(curve_rows);
  out["configuration"] = header.configuration;
  out["sums"] = nlohmann::ordered_json::parse(table.to_json());
  write_whole(folder + "/scores.json", out.dump(1) + "\n");
  write_whole(folder + "/scores.csv", csv);
}

ScoreTable read_reports(const std::vector<std::string>& paths) {
  std::optional<ScoreTable> sum;
  for (const std::string& path : paths) {
    std::string sums;
    try {
      const auto json = nlohmann::json::parse(std::ifstream(path));
      sums = json.at("sums").dump();
    } catch (const nlohmann::json::exception& error) {
      fail(ExitCode::data, path + " cannot be merged", error.what(), "Name score files of pluvia verify.");
    }
    ScoreTable table = ScoreTable::from_json(sums, path);
    if (sum)
      sum->merge(table);
    else
      sum = std::move(table);
  }
  if (!sum) fail(ExitCode::data, "There are no scores to merge", {}, "Set verify.merge to score files.");
  return std::move(*sum);
}

std::string summary(const ScoreTable& table, const std::vector<Score>& scores) {
  const auto find = [&](std::size_t system, std::size_t lead, int threshold, const std::string& name) {
    for (const Score& s : scores)
      if (s.system == static_cast<int>(system) && s.lead == static_cast<int>(lead) &&
          s.threshold == threshold && s.name == name)
        return s;
    Score none;
    none.value = none.lower = none.upper = std::nan("");
    return none;
  };
  std::string out = fmt::format("Brier skill score against climatology, {} days [95 % interval over days]\n",
                                table.days().size());
  out += fmt::format("{:>6} {:>10} {:>10} {:>11}", "lead", "threshold", "base rate", "N_valid");
  for (std::size_t s = 0; s < table.systems().size(); ++s)
    if (table.systems()[s] != "climatology")
      out +=
          s == 0 ? fmt::format("  {:<24}", table.systems()[s]) : fmt::format("  {:>22}", table.systems()[s]);
  out += "\n";
  for (std::size_t l = 0; l < table.leads_hours().size(); ++l)
    for (std::size_t k = 0; k < table.thresholds_mm().size(); ++k) {
      const auto threshold = static_cast<int>(k);
      const double base = find(0, l, threshold, "BASER").value;
      out += fmt::format("{:>4} h {:>7} mm {:>10} {:>11}", table.leads_hours()[l], table.thresholds_mm()[k],
                         std::isnan(base) ? "-" : fmt::format("{:.5f}", base),
                         table.n_valid(static_cast<int>(l)));
      for (std::size_t s = 0; s < table.systems().size(); ++s) {
        if (table.systems()[s] == "climatology") continue;
        const Score skill = find(s, l, threshold, "BSS");
        std::string text = std::isnan(skill.value) ? "-" : fmt::format("{:+.3f}", skill.value);
        if (s == 0 && !std::isnan(skill.lower))
          text += fmt::format(" [{:+.3f}, {:+.3f}]", skill.lower, skill.upper);
        out += s == 0 ? fmt::format("  {:<24}", text) : fmt::format("  {:>22}", text);
      }
      out += "\n";
    }
  return out;
}

} // namespace pluvia
