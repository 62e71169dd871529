"""Write the ROOT files that tests read, with ROOT itself, once a machine and version.

Run by .venv-root (make root-files); prints the folder. Besides files like those of the experiments
they hold what uproot can't write. Beside each stands what RDataFrame finds in it: for every
branch of numbers its minimum, maximum, lengths of lists and values that aren't finite.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parents[3] / "tests/locks/root.txt"

LEAVES = {
    "Bool_t": "O",
    "Char_t": "B",
    "UChar_t": "b",
    "Short_t": "S",
    "UShort_t": "s",
    "Int_t": "I",
    "UInt_t": "i",
    "Long64_t": "L",
    "ULong64_t": "l",
    "Long_t": "G",
    "Float_t": "F",
    "Double_t": "D",
    "Float16_t": "f",
    "Double32_t": "d",
}


@dataclass(frozen=True)
class Branch:
    """A branch: its C++ type, the expression of a value, and what gives its length.

    ``size`` is the name of a counter, or the sizes of a fixed array such as "3" or "2][3".
    """

    name: str
    type: str
    value: str
    size: str = ""


def many(names: str, type: str, value: str, size: str = "") -> list[Branch]:
    """Branches that differ by name only."""
    return [Branch(name, type, value, size) for name in names.split()]


def collection(prefix: str, counter: str, columns: dict[str, tuple[str, str]]) -> list[Branch]:
    """Lists of one length: Jet_pt, Jet_eta, ..."""
    return [Branch(prefix + name, *what, counter) for name, what in columns.items()]


MOMENTUM = {
    "pt": ("Float_t", "r.Exp(30)"),
    "eta": ("Float_t", "r.Gaus(0, 1.5)"),
    "phi": ("Float_t", "r.Uniform(-3.2, 3.2)"),
}
CARTESIAN = dict.fromkeys(("Px", "Py", "Pz"), ("Float_t", "r.Gaus(0, 40)")) | {
    "E": ("Float_t", "30 + r.Exp(50)"),
}

NANOAOD = [
    Branch("run", "UInt_t", "273158 + entry / 500"),
    Branch("luminosityBlock", "UInt_t", "1 + entry / 100"),
    Branch("event", "ULong64_t", "(1ULL << 40) + entry"),
    *many("nJet nMuon nElectron", "UInt_t", "r.Poisson(2) % 9"),
    *collection(
        "Jet_",
        "nJet",
        MOMENTUM
        | {
            "mass": ("Float_t", "r.Exp(8)"),
            "puId": ("Int_t", "r.Integer(8)"),
            "cleanmask": ("UChar_t", "r.Integer(2)"),
            "nConstituents": ("Int_t", "r.Poisson(20)"),
        },
    ),
    *collection(
        "Muon_",
        "nMuon",
        MOMENTUM
        | {
            "charge": ("Int_t", "r.Integer(2) ? 1 : -1"),
            "tightId": ("Bool_t", "r.Uniform() < 0.7"),
            "nStations": ("UChar_t", "r.Integer(5)"),
        },
    ),
    *collection("Electron_", "nElectron", MOMENTUM | {"cutBased": ("Int_t", "r.Integer(5)")}),
    *many("MET_pt MET_sumEt PuppiMET_pt", "Float_t", "r.Exp(40)"),
    *many("MET_phi fixedGridRhoFastjetAll", "Float_t", "r.Gaus(0, 2)"),
    Branch("genWeight", "Float_t", "r.Gaus(1, 2)"),
    *many("PV_npvs PV_npvsGood", "Int_t", "r.Poisson(15)"),
    Branch("Flag_count", "UChar_t", "r.Integer(200)"),
    Branch("HTXS_Higgs_y", "Float_t", 'std::nan("")'),
    *many("HLT_IsoMu20 HLT_IsoMu22 HLT_IsoMu24 HLT_IsoTkMu20", "Bool_t", "r.Uniform() < 0.4"),
    *many("HLT_IsoMu20_eta2p1 HLT_Ele27_WPTight_Gsf Flag_goodVertices", "Bool_t", "entry % 3"),
]

HZZ = [
    *many("NJet NMuon NElectron NPhoton", "Int_t", "r.Poisson(1.5) % 5"),
    *collection(
        "Jet_",
        "NJet",
        CARTESIAN | {"btag": ("Float_t", "r.Uniform(-1, 5)"), "ID": ("Bool_t", "r.Integer(2)")},
    ),
    *collection("Muon_", "NMuon", CARTESIAN | {"Charge": ("Int_t", "r.Integer(2) ? 1 : -1")}),
    *collection("Muon_", "NMuon", {"Iso": ("Float_t", "r.Exp(5)")}),
    *collection(
        "Electron_", "NElectron", CARTESIAN | {"Charge": ("Int_t", "r.Integer(2) ? 1 : -1")}
    ),
    *collection("Photon_", "NPhoton", CARTESIAN | {"Iso": ("Float_t", "r.Exp(5)")}),
    *many("MET_px MET_py MClepton_px MClepton_py MClepton_pz", "Float_t", "r.Gaus(0, 30)"),
    Branch("MCleptonPDGid", "Int_t", "r.Integer(2) ? 13 : -13"),
    Branch("NPrimaryVertices", "Int_t", "1 + r.Poisson(5)"),
    Branch("triggerIsoMu24", "Bool_t", "r.Integer(2)"),
    Branch("EventWeight", "Float_t", "r.Uniform(0, 0.02)"),
]

ZMUMU = [
    Branch("Type", "TEXT", 'std::array{"GT", "GG", "TT"}[r.Integer(3)]'),
    Branch("Run", "Int_t", "148031"),
    Branch("Event", "Int_t", "10507008 + 3 * entry"),
    *many("E1 pt1 E2 pt2", "Double_t", "20 + r.Exp(25)"),
    *many("px1 py1 pz1 px2 py2 pz2", "Double_t", "r.Gaus(0, 30)"),
    *many("eta1 phi1 eta2 phi2", "Double_t", "r.Uniform(-2.4, 2.4)"),
    *many("Q1 Q2", "Int_t", "r.Integer(2) ? 1 : -1"),
    Branch("M", "Double_t", "r.BreitWigner(91.2, 2.5)"),
]

ATLAS = [
    Branch("eventNumber", "ULong64_t", "900000 + entry"),
    *many("runNumber mcChannelNumber", "UInt_t", "410470"),
    *many("weight_mc weight_pileup xsec", "Float_t", "r.Gaus(1, 0.1)"),
    Branch("met_met", "Float_t", "r.Exp(40000)"),
    *many("el_pt mu_pt jet_pt", "std::vector<float>", "r.Exp(30000)"),
    *many("jet_eta", "std::vector<double>", "r.Gaus(0, 2)"),
    *many("el_charge", "std::vector<int>", "r.Integer(2) ? 1 : -1"),
    *many("jet_truthflav", "std::vector<short>", "r.Integer(6)"),
    *many("jet_isbtagged", "std::vector<char>", "r.Integer(2)"),
    *many("mu_trigger", "std::vector<bool>", "r.Integer(2)"),
    *many("jet_never", "std::vector<float>", "0", "0"),
    Branch("jet_tracks", "std::vector<std::vector<float>>", "std::vector<float>(r.Poisson(3), 1)"),
    Branch("mu_names", "std::vector<std::string>", '"mu" + std::to_string(entry)'),
    Branch("generator", "std::string", '"sherpa" + std::to_string(entry % 3)'),
]

LHCB = [
    Branch("runNumber", "UInt_t", "133000"),
    Branch("eventNumber", "ULong64_t", "entry * 7"),
    Branch("nCandidate", "ULong64_t", "r.Integer(3)"),
    *many("B0_PT B0_IPCHI2_OWNPV Kplus_PT piminus_PT", "Double_t", "r.Exp(5000)"),
    *many("B0_M B0_DTF_MASS", "Double_t", "r.Gaus(5279, 20)"),
    *many("B0_ID Kplus_ID", "Int_t", "r.Integer(2) ? 511 : -511"),
    *many("B0_L0Global_TOS Kplus_isMuon", "Bool_t", "r.Integer(2)"),
    Branch("nTracks", "Short_t", "r.Poisson(120)"),
    Branch("B0_COV", "Float_t", "r.Gaus()", "3][3"),
    Branch("nPV", "Int_t", "1 + r.Integer(4)"),
    *many("PVX PVY PVZ", "Float_t", "r.Gaus()", "nPV"),
]

PLAIN = [t for t in LEAVES if t not in ("Float16_t", "Double32_t")]
KINDS = [
    *(Branch(f"flat_{t}", t, "r.Integer(100)") for t in LEAVES),
    *(
        Branch(f"three_{t}", t, "r.Integer(100)", "3")
        for t in LEAVES
        if t[-3:] not in ("6_t", "2_t")
    ),
    Branch("n", "Int_t", "r.Poisson(2) % 9"),
    *(
        Branch(f"list_{t}", t, "r.Integer(100)", "n")
        for t in LEAVES
        if t[-3:] not in ("6_t", "2_t")
    ),
    Branch("ranged", "Double32_t", "r.Uniform()", "RANGE[0,1,12]"),
    Branch("lowest", "Char_t", "-128"),
    Branch("huge", "ULong64_t", "~0ULL - entry"),
    Branch("constant", "Float_t", "2.5"),
    Branch("holes", "Float_t", 'entry % 7 ? r.Gaus() : std::nan("")'),
    Branch("infinite", "Double_t", "entry % 11 ? r.Gaus() : 1 / 0.0"),
    Branch("p4", "TLorentzVector", "r.Gaus(), r.Gaus(), r.Gaus(), r.Exp(9)"),
    Branch("point", "TVector3", "r.Gaus(), r.Gaus(), r.Gaus()"),
    Branch("name", "std::string", "std::to_string(entry)"),
    Branch("label", "TEXT", '"abc"'),
    Branch("nested", "std::vector<std::vector<float>>", "std::vector<float>(r.Integer(3), entry)"),
    Branch("pair", "LEAFLIST", "entry, entry / 2.0f"),
]

COMPRESSIONS = ("none", "zlib", "lzma", "lz4", "zstd")
CLUSTERS = [
    *(Branch(f"x_{name}", "Double_t", "r.Gaus()") for name in COMPRESSIONS),
    Branch("n", "Int_t", "r.Integer(5)"),
    *(Branch(f"v_{name}", "Float_t", "r.Gaus()", "n") for name in COMPRESSIONS),
]

FEW = [Branch("x", "Double_t", "r.Gaus()"), Branch("v", "std::vector<float>", "r.Gaus()")]
OTHERS = [Branch("y", "Float_t", "r.Exp(1)"), Branch("z", "Int_t", "entry % 5")]

SEVERAL = [(FEW, "events", 300), (OTHERS, "more", 300), (OTHERS, "folder/deep/events", 50)]


def tree(branches: list[Branch], name: str, events: int, options: str = "") -> str:
    """C++ that writes a tree into the open file ``file``."""
    own, fill = [], []
    for i, b in enumerate(branches):
        v, title = f"v{i}", f"{b.name}/{LEAVES.get(b.type)}"
        if b.size in {other.name for other in branches}:
            at = next(j for j, other in enumerate(branches) if other.name == b.size)
            own += [
                f"{b.type} {v}[200] = {{}};",
                f't->Branch("{b.name}", {v}, "{b.name}[{b.size}]/{LEAVES[b.type]}");',
            ]
            fill += [f"for (int k = 0; k < (int)v{at}; k++) {v}[k] = {b.value};"]
        elif b.type == "TEXT":
            own += [f'char {v}[40]; t->Branch("{b.name}", {v}, "{b.name}/C");']
            fill += [f"strcpy({v}, {b.value});"]
        elif b.type == "LEAFLIST":
            own += [f'struct {{ int a; float b; }} {v}; t->Branch("{b.name}", &{v}, "a/I:b/F");']
            fill += [f"{v} = {{(int){b.value}}};"]
        elif b.type.startswith("std::vector"):
            own += [f'{b.type} {v}; t->Branch("{b.name}", &{v});']
            length = b.size or "r.Poisson(2)"
            fill += [f"{v}.clear(); for (int k = {length}; k > 0; k--) {v}.push_back({b.value});"]
        elif b.type in LEAVES and b.size and not b.size.startswith("RANGE"):
            cells = " * ".join(b.size.split("]["))
            own += [
                f"{b.type} {v}[{cells}];",
                f't->Branch("{b.name}", {v}, "{b.name}[{b.size}]/{LEAVES[b.type]}");',
            ]
            fill += [f"for (int k = 0; k < {cells}; k++) {v}[k] = {b.value};"]
        elif b.type in LEAVES:
            title += b.size.removeprefix("RANGE")
            own += [f'{b.type} {v}; t->Branch("{b.name}", &{v}, "{title}");']
            fill += [f"{v} = {b.value};"]
        else:  # an object, split into its members
            own += [f'{b.type} {v}; t->Branch("{b.name}", &{v});']
            fill += [f"{v} = {b.type}({b.value});"]
    folder, _, short = name.rpartition("/")
    return f"""
      {{
        auto* place = {f'file.mkdir("{folder}", "", true)' if folder else "&file"};
        place->cd();
        auto* t = new TTree("{short}", "");
        {" ".join(own)}
        {options}
        for (Long64_t entry = 0; entry < {events}; entry++) {{
          {" ".join(fill)}
          t->Fill();
        }}
        t->Write("", TObject::kOverwrite);
        delete t;
      }}"""


UNALIGNED = 't->SetAutoFlush(0); t->SetBasketSize("*", 3000);'
# As CMS writes: lists without offsets in their baskets, their counter tells.
OFFSET_MAP = 'ROOT::TIOFeatures io; io.Set("kGenerateOffsetMap"); t->SetIOFeatures(io);'
BY_BRANCH = "t->SetAutoFlush(40);" + "".join(
    f't->GetBranch("{kind}_{name}")->SetCompressionSettings({setting});'
    for name, setting in zip(COMPRESSIONS, (0, 101, 207, 404, 505), strict=True)
    for kind in "xv"
)

# Delphes' way: split TClonesArrays of TObjects, some of which others refer to; then fBits has
# another length, and uproot can't read it.
DELPHES_CLASSES = """
#include "TObject.h"
#include "TRef.h"
#include "TLorentzVector.h"
struct GenParticle : TObject {
  Int_t PID = 0, Status = 0; Float_t PT = 0, Eta = 0, Phi = 0, E = 0;
  ClassDefInline(GenParticle, 1)
};
struct Jet : TObject {
  Float_t PT = 0, Eta = 0, Phi = 0, Mass = 0, Tau[5] = {}; UInt_t BTag = 0;
  TRef Particle; TLorentzVector Area;
  ClassDefInline(Jet, 1)
};
struct MissingET : TObject { Float_t MET = 0, Phi = 0; ClassDefInline(MissingET, 1) };
"""
DELPHES = """
      {
        auto* t = new TTree("Delphes", "");
        TClonesArray particles("GenParticle"), jets("Jet"), met("MissingET");
        int n_particles, n_jets;
        t->Branch("Particle", &particles, 16000, 99); t->Branch("Particle_size", &n_particles);
        t->Branch("Jet", &jets, 16000, 99); t->Branch("Jet_size", &n_jets);
        t->Branch("MissingET", &met, 16000, 99);
        for (int entry = 0; entry < 500; entry++) {
          particles.Delete(); jets.Delete(); met.Delete();
          n_particles = r.Poisson(12); n_jets = r.Poisson(3);
          for (int i = 0; i < n_particles; i++) {
            auto* p = (GenParticle*)particles.ConstructedAt(i);
            p->PID = r.Integer(22); p->Status = 1; p->PT = r.Exp(20); p->Eta = r.Gaus();
            p->Phi = r.Uniform(-3, 3); p->E = r.Exp(50);
          }
          for (int i = 0; i < n_jets; i++) {
            auto* j = (Jet*)jets.ConstructedAt(i);
            j->PT = 20 + r.Exp(40); j->Eta = r.Gaus(); j->Phi = r.Uniform(-3, 3);
            j->Mass = r.Exp(9); j->BTag = r.Integer(2);
            for (auto& tau : j->Tau) tau = r.Uniform();
            if (i < n_particles) j->Particle = particles.At(i);
            j->Area.SetPxPyPzE(r.Gaus(), r.Gaus(), r.Gaus(), 1);
          }
          auto* m = (MissingET*)met.ConstructedAt(0);
          m->MET = r.Exp(30); m->Phi = r.Uniform(-3, 3);
          t->Fill();
        }
        t->Write("", TObject::kOverwrite);
        delete t;
      }"""
FRIEND = """
      {
        file.cd();
        auto* t = file.Get<TTree>("events");
        t->AddFriend("more");
        t->Write("", TObject::kOverwrite);
      }"""
RNTUPLE_CLASSES = """
#include <atomic>
#include <bitset>
#include <variant>
struct Vertex { float x = 0; int tracks = 0; };
struct Lepton { float pt = 0; std::int8_t charge = 0; std::vector<float> hits; };
enum Quality : std::int16_t { kLoose = -1, kTight = 300 };
"""
# What a field can be: its C++ type, the expression of a value, and how its column is to be stored.
FIELDS = [
    *many("b", "bool", "r.Integer(2)"),
    *many("letter", "char", "int(r.Integer(256)) - 128"),
    *(
        Branch(f"{sign}{bits}", f"std::{sign}{bits}_t", "entry * 3 - 200")
        for sign in ("int", "uint")
        for bits in (8, 16, 32, 64)
    ),
    *many("x double32", "float", "r.Gaus()"),
    Branch("d", "double", "r.Gaus()"),
    Branch("half", "float", "r.Gaus()", "SetHalfPrecision()"),
    Branch("cut", "float", "r.Gaus()", "SetTruncated(20)"),
    Branch("steps", "float", "r.Uniform()", "SetQuantized(12, {0.f, 1.f})"),
    Branch("holes", "float", 'entry % 7 ? r.Gaus() : std::nan("")'),
    Branch("infinite", "double", "entry % 11 ? r.Gaus() : 1 / 0.0"),
    Branch("quality", "Quality", "entry % 2 ? kLoose : kTight"),
    Branch("counted", "std::atomic<int>", "int(entry)"),
    Branch("three", "std::array<float, 3>", "std::array<float, 3>{1.f * entry, 2, 3}"),
    Branch("pair", "std::pair<int, float>", "std::make_pair(int(entry), 0.5f)"),
    Branch("vertex", "Vertex", "Vertex{float(r.Gaus()), int(r.Integer(9))}"),
    Branch("name", "std::string", "std::to_string(entry)"),
    *many("floats", "std::vector<float>", "list(float(r.Gaus()))"),
    *many("flags", "std::vector<bool>", "list(bool(r.Integer(2)))"),
    *many("letters", "std::vector<char>", "list(char(int(r.Integer(256)) - 128))"),
    *many("shorts", "ROOT::RVec<std::int16_t>", "list(std::int16_t(r.Integer(9)))"),
    *many("never", "std::vector<double>", "std::vector<double>()"),
    Branch("leptons", "std::vector<Lepton>", "list(Lepton{float(r.Exp(9)), 1, {1, 2}})"),
    Branch("nested", "std::vector<std::vector<float>>", "list(list(float(r.Gaus())))"),
    Branch("arrays", "std::vector<std::array<float, 2>>", "list(std::array<float, 2>{1, 2})"),
    Branch("texts", "std::vector<std::string>", 'list(std::string("a"))'),
    Branch("maybe", "std::optional<float>", "entry % 2 ? std::optional(1.f) : std::nullopt"),
    Branch("either", "std::variant<int, float>", "std::variant<int, float>(int(entry))"),
]
BITS = [Branch("bits", "std::bitset<12>", "entry * 37")]  # RDataFrame refuses the whole file
LATE = [Branch("late", "float", "r.Gaus()"), Branch("lates", "std::vector<float>", "list(1.f)")]


def ntuple(file: str, fields: list[Branch], late: list[Branch], events: int, cluster: int) -> str:
    """C++ that writes an RNTuple; fields ``late`` are added after half of the events."""
    own = [
        f"""{{ auto f = std::make_unique<ROOT::RField<{b.type}>>("{b.name}");
          {f"f->{b.size};" if b.size else ""} model->AddField(std::move(f)); }}"""
        for b in fields
    ]

    def pointers(names: list[Branch], of: str) -> str:
        return " ".join(f'auto {b.name} = {of}.GetPtr<{b.type}>("{b.name}");' for b in names)

    def fill(names: list[Branch]) -> str:
        return " ".join(f"*{b.name} = {b.value};" for b in names)

    more = " ".join(f'auto {b.name} = updater->MakeField<{b.type}>("{b.name}");' for b in late)
    half = events // 2
    return f"""
      {{
        TRandom3 r(7);
        auto list = [&](auto value) {{
          std::vector<decltype(value)> found(r.Poisson(2));
          for (auto&& each : found) each = value;
          return found;
        }};
        auto model = ROOT::RNTupleModel::Create();
        {" ".join(own)}
        if (model->GetFieldNames().count("leptons")) model->AddProjectedField(
          std::make_unique<ROOT::RField<ROOT::RNTupleCardinality<std::uint32_t>>>("nleptons"),
          [](const std::string&) {{ return "leptons"; }});
        auto& values = model->GetDefaultEntry();
        {pointers(fields, "values")}
        auto writer = ROOT::RNTupleWriter::Recreate(std::move(model), "Events", "{file}");
        Long64_t entry = 0;
        auto step = [&] {{ if (++entry % {cluster} == 0) writer->CommitCluster(); }};
        while (entry < {half}) {{ {fill(fields)} writer->Fill(); step(); }}
        auto updater = writer->CreateModelUpdater();
        updater->BeginUpdate();
        {more}
        updater->CommitUpdate();
        while (entry < {events}) {{ {fill([*fields, *late])} writer->Fill(); step(); }}
      }}"""


FILES: dict[str, tuple[int, str]] = {  # name: compression, C++
    "nanoaod.root": (207, tree(NANOAOD, "Events", 2000, OFFSET_MAP)),
    "hzz.root": (101, tree(HZZ, "events", 2400, UNALIGNED)),
    "zmumu.root": (404, tree(ZMUMU, "events", 2300)),
    "atlas.root": (505, tree(ATLAS, "nominal", 2000) + tree(OTHERS, "sumWeights", 3)),
    "lhcb.root": (101, tree(LHCB, "B0Tuple/DecayTree", 2000)),
    "delphes.root": (101, DELPHES),
    "kinds.root": (101, tree(KINDS, "kinds", 400)),
    "clusters.root": (0, tree(CLUSTERS, "events", 1000, BY_BRANCH)),
    "trees.root": (505, "".join(tree(*each) for each in SEVERAL) + FRIEND),
    "empty.root": (101, tree(NANOAOD, "Events", 0)),
}
TREES = {  # the trees that tests go through
    ("nanoaod.root", "Events"): 2000,
    ("hzz.root", "events"): 2400,
    ("zmumu.root", "events"): 2300,
    ("atlas.root", "nominal"): 2000,
    ("lhcb.root", "B0Tuple/DecayTree"): 2000,
    ("delphes.root", "Delphes"): 500,
    ("kinds.root", "kinds"): 400,
    ("clusters.root", "events"): 1000,
    ("trees.root", "events"): 300,
    ("trees.root", "folder/deep/events"): 50,
    ("empty.root", "Events"): 0,
}

OPINION = """
struct Tally {
  double low = INFINITY, high = -INFINITY, missing = 0, values = 0; long least = -1, most = -1;
  void add(double x) {
    values++;
    if (std::isfinite(x)) { low = std::min(low, x); high = std::max(high, x); } else missing++;
  }
  void length(long n) { least = least < 0 ? n : std::min(least, n); most = std::max(most, n); }
};
std::vector<Tally> tallies;
template <class T> int tally(int i, const T& x) { tallies[i].add(x); return 0; }
template <class T> int tally(int i, const ROOT::RVec<T>& v) {
  for (auto x : v) tallies[i].add(x);
  tallies[i].length(v.size());
  return 0;
}
"""


def folder() -> Path:
    """Where the files of this script, written by the locked ROOT, are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = hashlib.sha256(Path(__file__).read_bytes() + LOCK.read_bytes()).hexdigest()
    return cache / "mlaas4hep/root-files" / version[:16]


def opinions(ROOT: Any, name: str, tree: str) -> dict[str, dict[str, float | None]]:
    """What RDataFrame finds in every branch of numbers."""
    frame = ROOT.RDataFrame(tree, name)
    numbers = {"bool", "char", "short", "int", "long", "float", "double", "Long64_t", "ULong64_t"}
    numbers |= {"unsigned " + t for t in ("char", "short", "int", "long")} | set(LEAVES)
    numbers |= {f"std::{sign}{bits}_t" for sign in ("int", "uint") for bits in (8, 16, 32, 64)}
    columns = []
    for column in sorted(str(c) for c in frame.GetColumnNames()):
        try:
            kind = str(frame.GetColumnType(column))
        except Exception:  # a class that RDataFrame can't name: no opinion
            continue
        if column.endswith(".fBits"):  # in memory ROOT adds bits to those of the file
            continue
        if re.sub(r"^(ROOT::VecOps::RVec|std::vector|vector)<(.*)>$", r"\2", kind) in numbers:
            columns.append(column)
    return tallied(ROOT, frame, columns)


def tallied(ROOT: Any, frame: Any, columns: list[str]) -> dict[str, dict[str, float | None]]:
    """Minimum, maximum, lengths of lists and values that aren't finite of these columns."""
    ROOT.tallies.clear()
    ROOT.tallies.resize(len(columns))
    calls = " + ".join(f"tally({i}, {column})" for i, column in enumerate(columns))
    frame.Define("tallied_", calls).Sum("tallied_").GetValue()
    return {
        column: {
            "low": t.low if t.low <= t.high else None,
            "high": t.high if t.low <= t.high else None,
            "missing": int(t.missing),
            "values": int(t.values),
            "least": None if t.most < 0 else t.least,
            "most": None if t.most < 0 else t.most,
        }
        for column, t in zip(columns, ROOT.tallies, strict=True)
    }


JETS = "Jet_pt > 30 and abs(Jet_eta) < 2.4"


@dataclass(frozen=True)
class Analysis:
    """One analysis twice: as params.json and labels say it, and as C++ for RDataFrame.

    ``helpers`` are defined first; ``lists`` are branches after objects and order, ``new`` the new
    variables, of the same names as in ``params``. ``label`` is C++ of a text.
    """

    file: str
    tree: str
    params: dict[str, Any]
    labels: str
    selection: str
    label: str
    new: dict[str, str]
    helpers: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    weight: str = "1."


NANO = {
    "params": {
        "objects": {"Jet": JETS, "Muon": "Muon_tightId and Muon_pt > 10"},
        "order": {"Jet": "Jet_pt", "Muon": "-abs(Muon_eta)"},
        "new_variables": {
            "HT": "sum(Jet_pt)",
            "lead": "Jet_pt[0]",
            "dphi": "delta_phi(Jet_phi[0], MET_phi)",
            "dr": "delta_r(Jet_eta[0], Jet_phi[0], Jet_eta[1], Jet_phi[1])",
            "nbits": "count(Jet_puId & 4 == 4)",
            "most": "count(Jet_pt)",
            "central": "Muon_pt[0]",
        },
        "selection": "count(Jet_pt) >= 2 and HT > 100 and not HLT_IsoMu20",
        "weights": "genWeight",
        "exclude_branches": ["HTXS_Higgs_y"],
    },
    "labels": "HLT_IsoMu24",
    "helpers": {
        "goodJet": "Jet_pt > 30 && abs(Jet_eta) < 2.4",
        "goodMuon": "Muon_tightId && Muon_pt > 10",
        "jets": "ROOT::VecOps::Reverse(ROOT::VecOps::Argsort(Jet_pt[goodJet]))",
        "muons": "ROOT::VecOps::Argsort(abs(Muon_eta[goodMuon]))",
        "pt": "1. * Take(Jet_pt[goodJet], jets)",
        "eta": "1. * Take(Jet_eta[goodJet], jets)",
        "phi": "1. * Take(Jet_phi[goodJet], jets)",
    },
    "lists": {
        f"{kind}_{k}": f"Take({kind}_{k}[good{kind}], {kind.lower()}s)"
        for kind, names in (
            ("Jet", "pt eta phi mass puId cleanmask"),
            ("Muon", "pt charge tightId"),
        )
        for k in names.split()
    },
    "new": {
        "HT": "Sum(pt)",
        "lead": "pt.size() ? pt[0] : NAN",
        "dphi": "pt.size() ? ROOT::VecOps::DeltaPhi(double(MET_phi), phi[0]) : NAN",
        "dr": "pt.size() > 1 ? ROOT::VecOps::DeltaR(eta[0], eta[1], phi[0], phi[1]) : NAN",
        "nbits": "double(Sum((Jet_puId[goodJet] & 4) == 4))",
        "most": "double(pt.size())",
        "central": "muons.size() ? double(Take(Muon_pt[goodMuon], muons)[0]) : NAN",
    },
    "selection": "pt.size() >= 2 && HT > 100 && !HLT_IsoMu20",
    "label": "std::to_string(int(HLT_IsoMu24))",
    "weight": "double(genWeight)",
}
# RDataFrame writes friends and RNTuples too, of the events of nanoaod.root.
FRIENDLY = NANO | {
    "params": NANO["params"]
    | {
        "friends": {"Friend": "{dir}/{stem}_friend.root"},
        "objects": {"Jet": "Friend.Jet_btag > 1"},
        "order": {"Jet": "Friend.Jet_btag"},
        "new_variables": {"HT": "sum(Jet_pt)", "tag": "Friend.Jet_btag[0] + Friend.score"},
        "selection": "Friend.score > 0.3 and HT > 50",
        "weights": "Friend.weight",
    },
    "helpers": {
        "goodJet": "Friend.Jet_btag > 1",
        "jets": "ROOT::VecOps::Reverse(ROOT::VecOps::Argsort(Friend.Jet_btag[goodJet]))",
    },
    "lists": {f"Jet_{k}": f"Take(Jet_{k}[goodJet], jets)" for k in ("pt", "eta", "puId")}
    | {"Friend.Jet_btag": "Take(Friend.Jet_btag[goodJet], jets)"},
    "new": {
        "HT": "Sum(1. * Jet_pt[goodJet])",
        "tag": "jets.size() ? double(Take(Friend.Jet_btag[goodJet], jets)[0])"
        " + double(Friend.score) : NAN",
    },
    "selection": "Friend.score > 0.3 && HT > 50",
    "weight": "double(Friend.weight)",
}
ANALYSES = {
    "nanoaod": Analysis("nanoaod.root", "Events", **NANO),
    "rntuple": Analysis("nanoaod_rntuple.root", "Events", **NANO),
    "friend": Analysis("nanoaod.root", "Events", **FRIENDLY),
    "hzz": Analysis(
        "hzz.root",
        "events",
        {
            "objects": {"Muon": "sqrt(Muon_Px**2 + Muon_Py**2) > 20", "Jet": "Jet_ID"},
            "order": {"Muon": "Muon_E", "Jet": "Jet_btag"},
            "new_variables": {
                "pt": "sqrt(Muon_Px[0]**2 + Muon_Py[0]**2)",
                "m": "sqrt((Muon_E[0] + Muon_E[1])**2 - (Muon_Px[0] + Muon_Px[1])**2)",
                "iso": "max(Muon_Iso)",
                "btag": "min(Jet_btag)",
            },
            "selection": "count(Muon_E) >= 1 and NPrimaryVertices > 3",
            "weights": "EventWeight",
        },
        "triggerIsoMu24",
        "Es.size() >= 1 && NPrimaryVertices > 3",
        "std::to_string(int(triggerIsoMu24))",
        {
            "pt": "Xs.size() ? std::sqrt(Xs[0] * Xs[0] + Ys[0] * Ys[0]) : NAN",
            "m": "Xs.size() > 1 ? std::sqrt(std::pow(Es[0] + Es[1], 2)"
            " - std::pow(Xs[0] + Xs[1], 2)) : NAN",
            "iso": "Xs.size() ? double(Max(Muon_Iso[good])) : NAN",
            "btag": "Sum(Jet_ID) ? double(Min(Jet_btag[Jet_ID])) : NAN",
        },
        {
            "good": "sqrt(1. * Muon_Px * Muon_Px + 1. * Muon_Py * Muon_Py) > 20",
            "by": "ROOT::VecOps::Reverse(ROOT::VecOps::Argsort(Muon_E[good]))",
            "Es": "1. * Take(Muon_E[good], by)",
            "Xs": "1. * Take(Muon_Px[good], by)",
            "Ys": "1. * Take(Muon_Py[good], by)",
        },
        {f"Muon_{k}": f"Muon_{k}[good]" for k in ("Px", "Py", "Pz", "E", "Charge", "Iso")}
        | {f"Jet_{k}": f"Jet_{k}[Jet_ID]" for k in ("Px", "E", "btag")},
        "double(EventWeight)",
    ),
    "zmumu": Analysis(
        "zmumu.root",
        "events",
        {
            "new_variables": {
                "mass": "sqrt((E1 + E2)**2 - (px1 + px2)**2 - (py1 + py2)**2 - (pz1 + pz2)**2)",
                "dphi": "delta_phi(phi1, phi2)",
                "larger": "where(pt1 > pt2, pt1, pt2) % 7",
            },
            "selection": "Q1 * Q2 < 0 and mass > 20",
        },
        "Type",
        "Q1 * Q2 < 0 && mass > 20",
        "std::string(Type.begin(), Type.begin() + 2)",
        {
            "mass": "std::sqrt(std::pow(E1 + E2, 2) - std::pow(px1 + px2, 2)"
            " - std::pow(py1 + py2, 2) - std::pow(pz1 + pz2, 2))",
            "dphi": "ROOT::VecOps::DeltaPhi(phi2, phi1)",
            "larger": "std::fmod(std::max(pt1, pt2), 7.)",
        },
    ),
    "lhcb": Analysis(
        "lhcb.root",
        "B0Tuple/DecayTree",
        {
            "objects": {"nPV": "abs(PVZ) < 1"},
            "order": {"nPV": "PVX"},
            "new_variables": {
                "logip": "log(B0_IPCHI2_OWNPV)",
                "cov": "sum(B0_COV)",
                "first": "PVZ[0]",
            },
            "selection": "5260 < B0_M < 5300 and nTracks % 2 == 0 and not B0_L0Global_TOS",
        },
        "Kplus_isMuon",
        "5260 < B0_M && B0_M < 5300 && nTracks % 2 == 0 && !B0_L0Global_TOS",
        "std::to_string(int(Kplus_isMuon))",
        {
            "logip": "std::log(B0_IPCHI2_OWNPV)",
            "cov": "Sum(1. * B0_COV)",
            "first": "z.size() ? double(z[0]) : NAN",
        },
        {
            "good": "abs(PVZ) < 1",
            "z": "Take(PVZ[good], ROOT::VecOps::Reverse(ROOT::VecOps::Argsort(PVX[good])))",
        },
        {f"PV{k}": f"PV{k}[good]" for k in "XYZ"},
    ),
    "atlas": Analysis(
        "atlas.root",
        "nominal",
        {
            "new_variables": {
                "HT": "(sum(jet_pt) + sum(el_pt)) / 1000",
                "tagged": "any(jet_isbtagged == 1)",
                "hard": "count(jet_pt > 20000)",
            },
            "selection": "any(mu_pt > 20000) or met_met > 30000",
            "weights": "weight_mc",
        },
        "generator",
        "Any(mu_pt > 20000) || met_met > 30000",
        "generator",
        {
            "HT": "(Sum(1. * jet_pt) + Sum(1. * el_pt)) / 1000",
            "tagged": "double(Any(jet_isbtagged == 1))",
            "hard": "double(Sum(jet_pt > 20000))",
        },
        weight="double(weight_mc)",
    ),
}


def frame_of(ROOT: Any, analysis: Analysis) -> tuple[Any, Any]:
    """The events for RDataFrame, with their friends; and the trees, which must live as long."""
    friends = analysis.params.get("friends", {})
    if not friends:
        return ROOT.RDataFrame(analysis.tree, analysis.file), None
    trees = [ROOT.TChain(name) for name in (analysis.tree, *friends)]
    trees[0].Add(analysis.file)
    for tree, place in zip(trees[1:], friends.values(), strict=True):
        tree.Add(place.format(dir=".", stem=analysis.file.removesuffix(".root")))
        trees[0].AddFriend(tree)
    return ROOT.RDataFrame(trees[0]), trees


def outcome(ROOT: Any, analysis: Analysis) -> dict[str, Any]:
    """What RDataFrame finds: values for every event (NaN is null), and lists of selected ones."""
    frame, _alive = frame_of(ROOT, analysis)
    for name, code in (analysis.helpers | analysis.new).items():
        frame = frame.Define(name, code)
    frame = frame.Define("selected_", analysis.selection)
    frame = frame.Define("weight_", analysis.weight).Define("label_", analysis.label)
    columns = {name: f"double({name})" for name in analysis.new} | {"": "double(weight_)"}
    taken = [
        frame.Define(f"taken{i}_", code).Take["double"](f"taken{i}_")
        for i, code in enumerate(columns.values())
    ]
    labels = frame.Take["std::string"]("label_")
    selected = frame.Define("passes_", "double(selected_)").Take["double"]("passes_")
    left = frame.Filter("selected_")
    for i, code in enumerate(analysis.lists.values()):
        left = left.Define(f"list{i}_", code)
    *new, weights = [[None if x != x else float(x) for x in values] for values in taken]
    names = [f"list{i}_" for i in range(len(analysis.lists))]
    lists = tallied(ROOT, left, names) if names else {}
    return {
        "new": dict(zip(analysis.new, new, strict=True)),
        "weights": weights,
        "labels": [str(label) for label in labels],
        "selected": [bool(x) for x in selected],
        "lists": dict(zip(analysis.lists, lists.values(), strict=True)),
    }


def write_beside(ROOT: Any) -> None:
    """Friends of nanoaod.root, one with an index, and its events as an RNTuple."""
    frame = (
        ROOT.RDataFrame("Events", "nanoaod.root")
        .Define("Jet_btag", "Jet_eta * 0.7f + Jet_phi")
        .Define("score", "float(std::fmod(MET_pt, 1.f))")
        .Define("weight", "0.5 + score")
    )
    columns = ["run", "event", "Jet_btag", "score", "weight"]
    frame.Snapshot("Friend", "nanoaod_friend.root", columns)
    frame.Range(1999).Snapshot("Friend", "shorter_friend.root", columns)
    frame.Redefine("event", "event ^ 1").Snapshot("Friend", "swapped_friend.root", columns)
    file = ROOT.TFile("nanoaod_friend.root")
    indexed = ROOT.TFile("indexed_friend.root", "RECREATE")
    tree = file.Get("Friend").CloneTree()
    tree.BuildIndex("run", "event")
    tree.Write()
    indexed.Close()
    file.Close()
    options = ROOT.RDF.RSnapshotOptions()
    options.fOutputFormat = ROOT.RDF.ESnapshotOutputFormat.kRNTuple
    frame = ROOT.RDataFrame("Events", "nanoaod.root")
    frame.Snapshot("Events", "nanoaod_rntuple.root", "", options)


BITSETS = """
      {
        TTree t("bits", "");
        t.SetAutoFlush(40);
        std::bitset<12> few; std::bitset<70> many; std::vector<std::bitset<12>> lists; Hits part;
        t.Branch("few", &few); t.Branch("many", &many); t.Branch("lists", &lists);
        t.Branch("part", &part);
        for (unsigned long entry = 0; entry < 300; entry++) {
          few = entry * 37; part.hits = few; part.x = entry;
          many = std::bitset<70>(entry * 1000003) | (std::bitset<70>(entry) << 60);
          lists.assign(entry % 3, few);
          t.Fill();
        }
        t.Write();
      }"""
BITSETS_CLASS = "struct Hits { std::bitset<12> hits; float x = 0; ClassDefInlineNV(Hits, 1) };"


def write_bitsets(ROOT: Any, into: Path) -> None:
    """std::bitset in a TTree, for which ROOT compiles a dictionary first."""
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        kinds = "bitset<12>;bitset<70>;vector<bitset<12>>"
        ROOT.gInterpreter.GenerateDictionary(kinds, "bitset;vector")
        os.chdir(into)
    ROOT.gInterpreter.Declare(BITSETS_CLASS)
    body = f'TFile file("bitsets.root", "RECREATE"); {BITSETS}'
    if not ROOT.gInterpreter.Declare(f"void write_bitsets() {{ {body} }}"):
        raise SystemExit("bitsets.root: ROOT doesn't take its code")
    ROOT.write_bitsets()


def write(into: Path) -> None:
    """Write all files and opinions into the current folder ``into``."""
    warnings.filterwarnings("ignore", "(?s).*alpha stage")
    import ROOT

    os.chdir(into)
    ROOT.gErrorAbortLevel = ROOT.kError
    ROOT.gSystem.Load("libPhysics")  # whose classes ours have as members
    ROOT.gInterpreter.Declare("#include <array>\n#include <cmath>\n#include <cstring>")
    ROOT.gInterpreter.Declare(DELPHES_CLASSES + RNTUPLE_CLASSES + OPINION)
    for seed, (name, (compression, body)) in enumerate(FILES.items(), 1):
        function = f"write_{name.removesuffix('.root')}"
        done = ROOT.gInterpreter.Declare(f"""
          void {function}() {{
            TRandom3 r({seed});
            TFile file("{name}", "RECREATE", "", {compression});
            {body}
          }}""")
        if not done:
            raise SystemExit(f"{name}: ROOT doesn't take its code")
        getattr(ROOT, function)()
    for file, fields, late in (("rntuple.root", FIELDS, LATE), ("bits.root", BITS, [])):
        function = f"write_{file.removesuffix('.root')}"
        if not ROOT.gInterpreter.Declare(
            f"void {function}() {ntuple(file, fields, late, 300, 90)}"
        ):
            raise SystemExit(f"{file}: ROOT doesn't take its code")
        getattr(ROOT, function)()
    trees = [*TREES, ("rntuple.root", "Events")]
    for name in {name for name, _ in trees}:
        found = {tree: opinions(ROOT, name, tree) for n, tree in trees if n == name}
        Path(name).with_suffix(".json").write_text(json.dumps(found, indent=1))
    write_beside(ROOT)
    write_bitsets(ROOT, into)
    for name, analysis in ANALYSES.items():
        Path(f"{name}.analysis.json").write_text(json.dumps(outcome(ROOT, analysis)))


def main() -> None:
    """Write the files where they aren't yet, and print their folder."""
    final = folder()
    if not final.is_dir():
        print(f"Writing ROOT files into {final}, once", file=sys.stderr)
        started = time.monotonic()
        final.parent.mkdir(parents=True, exist_ok=True)
        into = Path(tempfile.mkdtemp(dir=final.parent, prefix=".writing-"))
        try:
            write(into)
            if not final.is_dir():
                into.rename(final)
        finally:
            shutil.rmtree(into, ignore_errors=True)
        print(f"ROOT wrote them in {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(final)


if __name__ == "__main__":
    main()
