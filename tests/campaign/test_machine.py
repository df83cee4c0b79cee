"""What tells machines apart whose numbers may differ."""

import platform

from sfdabench.campaign import machine


def test_a_fingerprint_names_what_numbers_depend_on(monkeypatch):
    before = dict(machine.fingerprint(threads=1))
    assert dict(machine.fingerprint(threads=1)) == before
    assert before["python"] == ".".join(platform.python_version_tuple()[:2])
    assert before["capability"]
    assert before["cpu"]
    assert set(machine.PACKAGES) <= before.keys()
    assert dict(machine.fingerprint(threads=2)) == before | {"threads": "2"}
    for name in machine.VARIABLES:
        monkeypatch.setenv(name, "x")
        assert dict(machine.fingerprint(threads=1)) == before | {name: "x"}
        monkeypatch.delenv(name)


CPU = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model name\t: AMD EPYC
microcode\t: 0x1
cpu MHz\t\t: 2445.406
flags\t\t: fpu sse2 avx2 fma ibrs avx
"""


def test_the_kind_of_cpu_and_its_vector_instructions_count(tmp_path):
    path = tmp_path / "cpuinfo"
    assert machine._cpu(path) == platform.processor() or platform.machine()

    def cpu(old, new):
        path.write_text(f"{CPU.replace(old, new)}\n{CPU.replace('EPYC', 'second')}")
        return machine._cpu(path)

    plain = "vendor_id AuthenticAMD, model name AMD EPYC, cpu family 25, avx, avx2, fma, sse2"
    assert cpu("", "") == plain
    for old, new in (("0x1", "0x2"), ("2445", "2446"), ("ibrs", "ibpb")):
        assert cpu(old, new) == plain, f"{old} changes with the kernel or by the minute"
    for old, new in (("25", "26"), ("EPYC", "EPYC 2"), (" avx2", ""), ("avx2", "avx512f")):
        assert cpu(old, new) != plain
    path.write_text("CPU implementer\t: 0x41\nCPU part\t: 0xd40\nFeatures\t: fp asimd sve crc32\n")
    assert machine._cpu(path) == "CPU implementer 0x41, CPU part 0xd40, asimd, sve"
